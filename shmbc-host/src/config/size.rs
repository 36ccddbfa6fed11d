//! Sizes in the configuration and in labels: bytes, or a number with a unit such as `64 GiB`.

use std::fmt;

use bytesize::ByteSize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// The bytes that `text` means.
///
/// # Errors
///
/// What would be right.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let size: Result<ByteSize, _> = text.parse();
    size.map(|size| size.as_u64()).map_err(|_| "it is a number of bytes, or one with a unit, such as 64 GiB".into())
}

struct Size;

impl Visitor<'_> for Size {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, or a text such as \"64 GiB\"")
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<u64, E> {
        u64::try_from(n).map_err(|_| E::invalid_value(Unexpected::Signed(n), &self))
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<u64, E> {
        Ok(n)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        parse(text).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// For serde.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    from.deserialize_any(Size)
}

/// For serde, where it may be left out.
pub(crate) fn deserialize_some<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn size_when_it_has_a_unit_counts_in_it() {
        for (text, bytes) in [("4096", 4096), ("4 MiB", 4 << 20), ("64GiB", 64 << 30), ("1 kB", 1000)] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "lots", "-1", "4 XiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
