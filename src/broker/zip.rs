//! zstd compression of message bodies, with a bound on the decompressed size.

use std::io::Read;

use crate::error::BoxError;

/// Maximum size of a decompressed body: four times the default payload limit of a store. Larger bodies are sent uncompressed.
pub(super) const MAX_EXPANDED: usize = 64 * 1024 * 1024;

/// Maximum window of the decoder, as a power of two: the size that the format requires every decoder to support. Level 1 uses a sixteenth
/// of it.
const WINDOW_LOG: u32 = 23;

/// Compression level. It reduces JSON to a third or less; higher levels cost more time than they save.
const LEVEL: i32 = 1;

pub(super) fn compress(bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
    Ok(zstd::bulk::compress(bytes, LEVEL)?)
}

/// Decompresses at most [`MAX_EXPANDED`] bytes, regardless of the size that the input declares.
pub(super) fn expand(bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?;
    decoder.window_log_max(WINDOW_LOG)?;
    let mut expanded = Vec::new();
    decoder.take(MAX_EXPANDED as u64 + 1).read_to_end(&mut expanded)?;
    if expanded.len() > MAX_EXPANDED {
        return Err(format!("the content expands to more than {MAX_EXPANDED} bytes").into());
    }
    Ok(expanded)
}
