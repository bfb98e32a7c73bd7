//! Compression of what travels: zstd, level 1, bounded on the way back.

use std::io::Read;

use crate::error::BoxError;

/// The most that a compressed body may expand to. Four times the largest payload a store takes by default; what is larger travels as it is.
pub(super) const MAX_EXPANDED: usize = 64 * 1024 * 1024;

/// The largest window a decoder makes room for, as a power of two: what every decoder of the format must have. Level 1 needs a sixteenth.
const WINDOW_LOG: u32 = 23;

/// Fast, and with JSON already a third of the size or less; higher levels cost more time than they save.
const LEVEL: i32 = 1;

pub(super) fn compress(bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
    Ok(zstd::bulk::compress(bytes, LEVEL)?)
}

/// Never makes more than [`MAX_EXPANDED`] bytes, whatever the input says of itself.
pub(super) fn expand(bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?;
    decoder.window_log_max(WINDOW_LOG)?;
    let mut expanded = Vec::new();
    decoder.take(MAX_EXPANDED as u64 + 1).read_to_end(&mut expanded)?;
    if expanded.len() > MAX_EXPANDED {
        return Err(format!("it expands to more than {MAX_EXPANDED} bytes").into());
    }
    Ok(expanded)
}
