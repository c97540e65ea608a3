//! Reading with a limit.

use std::io::{self, Read};

/// Reads `reader` to its end, which must come within `most` bytes.
///
/// # Errors
/// It can't be read or is larger.
pub fn read_at_most(reader: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is larger than {most} bytes")));
    }
    Ok(bytes)
}
