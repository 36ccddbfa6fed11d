//! Pure arithmetic: what the peer's cursor claims, checked against what is possible.

use super::PeerFault;

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

/// Where byte number `position` stands in a ring of `capacity` bytes (a power of two), and how many bytes follow
/// it before the ring's end.
#[inline]
pub(super) const fn place(position: u64, capacity: u64) -> (usize, usize) {
    let offset = position & (capacity - 1);
    (offset as usize, (capacity - offset) as usize)
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
            let (offset, rest) = place(claim, capacity);
            prop_assert!(offset as u64 + rest as u64 == capacity && rest > 0);
        }
    }
}
