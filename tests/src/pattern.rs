//! A stream of bytes that everybody can make and check from a seed and an offset.

/// An endless byte stream without a period that a test could meet by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    seed: u64,
}

/// Where a received stream differs from its pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Offset of the first wrong byte from the start of the stream.
    pub at: u64,
    /// What came.
    pub got: u8,
    /// What was sent.
    pub expected: u8,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "byte {} is {:#04x}, sent was {:#04x}", self.at, self.got, self.expected)
    }
}

impl std::error::Error for Wrong {}

impl Pattern {
    /// The stream of this seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The eight bytes at `8 * index`: splitmix64, so that no two places look alike.
    const fn word(self, index: u64) -> [u8; 8] {
        let mut z = self.seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }

    /// Fills `buf` with the bytes from `offset` on.
    pub fn fill(self, offset: u64, buf: &mut [u8]) {
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let word = self.word(at / 8);
            let piece = &word[(at % 8) as usize..];
            let n = piece.len().min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&piece[..n]);
            (at, rest) = (at + n as u64, later);
        }
    }

    /// Checks that `bytes` are those from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Wrong`] names the first that is not.
    pub fn check(self, offset: u64, bytes: &[u8]) -> Result<(), Wrong> {
        let mut expected = vec![0; bytes.len()];
        self.fill(offset, &mut expected);
        if bytes == expected {
            return Ok(());
        }
        let at = bytes.iter().zip(&expected).position(|(a, b)| a != b).expect("they differ");
        Err(Wrong { at: offset + at as u64, got: bytes[at], expected: expected[at] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_when_filled_in_any_pieces_is_the_same_and_one_wrong_byte_is_found() {
        let pattern = Pattern::new(7);
        let mut whole = vec![0; 1000];
        pattern.fill(0, &mut whole);
        for (from, to) in [(0, 1), (1, 9), (7, 8), (13, 1000), (8, 16)] {
            let mut piece = vec![0; to - from];
            pattern.fill(from as u64, &mut piece);
            assert_eq!(piece, whole[from..to]);
        }
        assert_eq!(pattern.check(0, &whole), Ok(()));
        assert!(pattern.check(1, &whole).is_err() && Pattern::new(8).check(0, &whole).is_err());
        whole[500] ^= 1;
        assert_eq!(pattern.check(0, &whole).unwrap_err().at, 500);
    }
}
