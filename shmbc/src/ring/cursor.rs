//! Pure arithmetic: what the peer's cursor claims, checked against what is possible.

use super::PeerFault;
use crate::layout::{self, Direction};

/// Bytes that a consumer at `head` may read, given that the producer claims `tail` and claimed `seen` before.
#[inline]
pub(super) const fn filled(head: u64, seen: u64, tail: u64, capacity: u64) -> Result<u64, PeerFault> {
    match check(tail, seen, head.saturating_add(capacity)) {
        // head <= seen: we never read beyond a tail that we had checked.
        Ok(tail) => Ok(tail.saturating_sub(head)),
        Err(fault) => Err(fault),
    }
}

/// Bytes that a producer at `tail` may write, given that the consumer claims `head` and claimed `seen` before.
#[inline]
pub(super) const fn free(tail: u64, seen: u64, head: u64, capacity: u64) -> Result<u64, PeerFault> {
    match check(head, seen, tail) {
        // tail - head is at most capacity: head >= seen, and seen >= tail - capacity since we never wrote beyond that.
        Ok(head) => Ok(capacity.saturating_sub(tail - head)),
        Err(fault) => Err(fault),
    }
}

const fn check(claim: u64, least: u64, most: u64) -> Result<u64, PeerFault> {
    if claim < least || claim > most {
        return Err(PeerFault::Cursor { claim, least, most });
    }
    Ok(claim)
}

/// A part of a ring that stands in one piece in the block: kept by each side for the bytes it is at, so that most copies find
/// their place by one comparison and one addition.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Piece {
    /// From a byte's number to its place, in bytes from the start of the block; modulo 2^64.
    shift: u64,
    /// The first byte number that does not belong to it. 0: none does.
    end: u64,
}

impl Piece {
    /// The piece of byte number `position` and what follows it, in a ring of `capacity` bytes (a power of two) whose first byte is
    /// number `origin`. Whatever is claimed of the origin, it is in the ring.
    pub(super) const fn of(direction: Direction, position: u64, origin: u64, capacity: u64) -> Self {
        let (at, rest) = layout::place(direction, position.wrapping_sub(origin) & (capacity - 1));
        Self { shift: (at as u64).wrapping_sub(position), end: position.saturating_add(rest as u64) }
    }

    #[inline]
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Where byte number `position`, which is one of it, stands in the block.
    #[inline]
    pub(super) const fn place(&self, position: u64) -> usize {
        self.shift.wrapping_add(position) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the peer claims, the result lies within the ring or is a fault.
        #[test]
        fn claim_when_arbitrary_never_yields_more_than_the_ring(
            own: u64, behind in 0_u64..=1 << 20, claim: u64, shift in 12_u32..21,
        ) {
            let capacity = 1_u64 << shift;
            let behind = behind.min(capacity).min(own);
            // As consumer: at `own - behind`, the producer was last seen at `own`.
            match filled(own - behind, own, claim, capacity) {
                Ok(n) => prop_assert!(n <= capacity && claim >= own),
                Err(_) => prop_assert!(claim < own || claim - (own - behind) > capacity),
            }
            // As producer: at `own`, the consumer was last seen at `own - behind`.
            match free(own, own - behind, claim, capacity) {
                Ok(n) => prop_assert!(n <= capacity && claim <= own && claim >= own - behind),
                Err(_) => prop_assert!(claim > own || claim < own - behind),
            }
            for direction in Direction::BOTH {
                let piece = Piece::of(direction, own, claim, capacity);
                let (first, rest) = (piece.place(own), piece.end() - own);
                let block = layout::HEADER as u64 + 4096 + 2 * capacity;
                prop_assert!(layout::HEADER <= first && first as u64 + rest <= block);
                prop_assert!(rest > 0 || own == u64::MAX);
            }
        }
    }
}
