//! Reading with a limit.

use std::io::{self, Read};

use zeroize::Zeroizing;

use crate::memory::{Holding, ORDINARY};

/// Reads `reader` to its end, which must come within `most` bytes.
///
/// # Errors
/// It can't be read or is larger.
pub fn read_at_most(reader: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    check(bytes.len(), most)?;
    Ok(bytes)
}

/// As [`read_at_most`]; what is larger than an ordinary answer waits until there is memory for it.
///
/// # Errors
/// It can't be read, is larger, or the run is over.
pub fn read_holding(
    mut reader: impl Read,
    most: u64,
    holding: &mut Holding,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let ordinary = (ORDINARY as u64).min(most.saturating_add(1));
    reader.by_ref().take(ordinary).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == ordinary && ordinary <= most {
        holding.grow()?;
        let more = most - ordinary + 1;
        // At once: what grows again and again is there twice.
        bytes.reserve_exact(usize::try_from(more).unwrap_or(usize::MAX));
        reader.take(more).read_to_end(&mut bytes)?;
    }
    check(bytes.len(), most)?;
    Ok(bytes)
}

/// As [`read_at_most`], of what holds a secret: none of it stays behind in memory.
///
/// # Errors
/// It can't be read or is larger.
pub fn read_secretly(reader: impl Read, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut reader = reader.take(most.saturating_add(1));
    let mut bytes = Zeroizing::new(vec![0; 8 << 10]);
    let mut filled = 0;
    loop {
        let read = match reader.read(bytes.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        filled += read;
        if filled == bytes.len() {
            // A vector that grows by itself leaves what it held where it was.
            let mut larger = Zeroizing::new(Vec::with_capacity(filled * 2));
            larger.extend_from_slice(&bytes);
            larger.resize(filled * 2, 0);
            bytes = larger;
        }
    }
    check(filled, most)?;
    bytes.truncate(filled);
    Ok(bytes)
}

fn check(length: usize, most: u64) -> io::Result<()> {
    if length as u64 > most {
        return Err(io::Error::other(format!("it is larger than {most} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::Memory;

    #[test]
    fn all_ways_of_reading_have_the_same_limit() {
        let memory = Arc::new(Memory::for_tests());
        for length in [0, 1, 8191, 8192, 8193, 100_000, ORDINARY - 1, ORDINARY, ORDINARY + 1] {
            let mut holding = Holding::new(&memory, "t");
            let text: Vec<u8> = (0..=255).cycle().take(length).collect();
            assert_eq!(*read_secretly(&*text, length as u64).unwrap(), text);
            assert_eq!(read_at_most(&*text, length as u64).unwrap(), text);
            assert_eq!(read_holding(&*text, length as u64, &mut holding).unwrap(), text);
            assert_eq!(holding.has_place(), length >= ORDINARY);
            if let Some(less) = (length as u64).checked_sub(1) {
                assert!(read_secretly(&*text, less).is_err());
                assert!(read_at_most(&*text, less).is_err());
                assert!(read_holding(&*text, less, &mut holding).is_err());
            }
        }
    }
}
