//! The lines of an export, digested and compressed.

use std::io::{self, BufWriter, Write};

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::id::Position;
use crate::operate::archive::counted::ArchivedRows;
use crate::operate::archive::line::{End, FORMAT, Header, Line, sealed_header};
use crate::operate::archive::value::hex;

/// The bytes that are collected before they are written.
const BUFFER: usize = 64 * 1024;

/// The compression level: higher ones cost more time than they save.
#[cfg(feature = "zstd")]
const LEVEL: i32 = 3;

/// An export on its way to `W`.
pub(super) struct File<W: Write> {
    sink: Sink<W>,
    hash: Sha256,
    rows: ArchivedRows,
    line: Vec<u8>,
}

enum Sink<W: Write> {
    Plain(BufWriter<W>),
    #[cfg(feature = "zstd")]
    Zstd(BufWriter<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> File<W> {
    pub(super) fn to(to: W, compresses: bool) -> Result<Self> {
        let sink = if compresses { compressed(to)? } else { Sink::Plain(BufWriter::with_capacity(BUFFER, to)) };
        Ok(Self { sink, hash: Sha256::new(), rows: ArchivedRows::default(), line: Vec::new() })
    }

    pub(super) fn begin(&mut self, head: Position) -> Result<()> {
        let header = Header {
            retell_export: FORMAT,
            head: head.get(),
            made_at: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            made_by: format!("retell {}", env!("CARGO_PKG_VERSION")),
        };
        self.write(sealed_header(&header).as_bytes())?;
        self.write(b"\n")
    }

    pub(super) fn line(&mut self, line: &Line<'_>) -> Result<()> {
        line.count(&mut self.rows);
        self.encode(line)?;
        let bytes = std::mem::take(&mut self.line);
        self.hash.update(&bytes);
        self.write(&bytes)?;
        self.line = bytes;
        Ok(())
    }

    /// Writes the last line.
    pub(super) fn end(mut self) -> Result<ArchivedRows> {
        let (rows, sha256) = (self.rows, hex(self.hash.finalize_reset()));
        self.encode(&Line::End(End { rows, sha256 }))?;
        let bytes = std::mem::take(&mut self.line);
        self.write(&bytes)?;
        self.sink.finish().map_err(failed)?;
        Ok(rows)
    }

    fn encode(&mut self, line: &impl Serialize) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)
            .map_err(|error| Error::with_source(ErrorKind::Unencodable("a line of an export".into()), error))?;
        self.line.push(b'\n');
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.sink {
            Sink::Plain(to) => to.write_all(bytes),
            #[cfg(feature = "zstd")]
            Sink::Zstd(to) => to.write_all(bytes),
        }
        .map_err(failed)
    }
}

impl<W: Write> Sink<W> {
    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(mut to) => to.flush(),
            #[cfg(feature = "zstd")]
            Self::Zstd(to) => to.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?.flush(),
        }
    }
}

#[cfg(feature = "zstd")]
fn compressed<W: Write>(to: W) -> Result<Sink<W>> {
    let mut encoder = zstd::stream::write::Encoder::new(to, LEVEL).map_err(failed)?;
    encoder.include_checksum(true).map_err(failed)?;
    // The encoder takes many small lines slower than a few large pieces.
    Ok(Sink::Zstd(BufWriter::with_capacity(BUFFER, encoder)))
}

#[cfg(not(feature = "zstd"))]
fn compressed<W: Write>(_: W) -> Result<Sink<W>> {
    Err(ErrorKind::Invalid("compression needs the feature `zstd`".into()).into())
}

fn failed(error: io::Error) -> Error {
    Error::with_source(ErrorKind::Backend("write the export".into()), error)
}
