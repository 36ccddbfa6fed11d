//! Reaches into a mapped block: words of the header as atomics, payload by copying.
//!
//! The other process writes here whenever it likes. So:
//!
//! * Words are atomics of one fixed width, reached by offset from [`layout`](crate::layout), which only makes aligned
//!   offsets inside the header. They carry the ordering; what they say is a claim.
//! * Payload is never borrowed. It is copied once, by raw pointer: the shared side volatile, in vector-sized
//!   pieces, the private side ordinary. Volatile is what Rust recommends for memory that untrusted code writes
//!   (unsafe-code-guidelines #152, #607), and in vectors it is as fast as `memcpy`: 116 GB/s against 99 at 4 KiB, equal from
//!   64 KiB on, where volatile `u64` reach 40 to 70 % (reference measurement on x86-64).

use crate::layout::Word;
use crate::sync::AtomicU64;

use super::Mapping;

impl Mapping {
    /// One word of the header.
    #[inline]
    pub(crate) fn word(&self, word: Word) -> &AtomicU64 {
        // SAFETY: a `Word` lies inside the header, which every mapping contains (`Mapping::of`).
        let at = unsafe { self.base().add(word.offset()) };
        // SAFETY: `at` is 8-aligned (the mapping is page aligned, a `Word` 8-aligned), lives as long as `self`, and words
        // are only ever accessed as atomics of this width by this program. What another process does there is
        // outside of this program's memory model; a torn or wild value is caught by whoever checks the claim.
        unsafe { AtomicU64::from_ptr(at.cast()) }
    }

    /// Copies `from` to the block at `offset`.
    ///
    /// # Panics
    ///
    /// When the range does not lie inside the mapping: a mistake of the caller's, who computes offsets from checked cursors.
    #[inline]
    pub(crate) fn copy_in(&self, offset: usize, from: &[u8]) {
        self.check(offset, from.len());
        // SAFETY: checked just above.
        let to = unsafe { self.base().add(offset) };
        // SAFETY: `[to, to + len)` lies inside the mapping, which is writable and cannot shrink; `from` is private.
        unsafe { volatile::store(to, from.as_ptr(), from.len()) }
    }

    /// Copies from the block at `offset` to `to`.
    ///
    /// # Panics
    ///
    /// As for [`copy_in`](Self::copy_in).
    #[inline]
    pub(crate) fn copy_out(&self, offset: usize, to: &mut [u8]) {
        self.check(offset, to.len());
        // SAFETY: checked just above.
        let from = unsafe { self.base().add(offset) };
        // SAFETY: `[from, from + len)` lies inside the mapping, which is readable and cannot shrink; `to` is private.
        unsafe { volatile::load(to.as_mut_ptr(), from, to.len()) }
    }

    /// Has the processor fetch the lines of a range, to be written soon. A hint: where it has no such instruction, and outside of the
    /// mapping, nothing happens.
    #[inline]
    pub(crate) fn prefetch_to_write(&self, offset: usize, len: usize) {
        #[cfg(target_arch = "x86_64")]
        for at in (offset..offset + len).step_by(64) {
            let at = self.base().wrapping_add(at);
            // SAFETY: reads and writes nothing and never faults. (On processors without it, a NOP.)
            unsafe { std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags)) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (offset, len);
    }

    #[inline]
    pub(super) fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len()), "copy outside of the block");
    }
}

/// The copies. In each the shared side is accessed volatile and aligned to the piece, the private side unaligned and
/// ordinary; head and tail go byte by byte and by `u64`.
mod volatile {
    use std::ptr;

    /// Copies `n` bytes from private `from` to shared `to`.
    ///
    /// # Safety
    ///
    /// `[to, to + n)` is writable and outside of the program's own objects; `[from, from + n)` is readable and private.
    #[inline]
    pub(super) unsafe fn store(to: *mut u8, from: *const u8, n: usize) {
        #[cfg(target_arch = "x86_64")]
        if n >= 64 {
            if std::arch::is_x86_feature_detected!("avx") {
                // SAFETY: AVX is there; the rest is the caller's promise.
                return unsafe { x86::store_avx(to, from, n) };
            }
            // SAFETY: SSE2 is part of x86-64; the rest is the caller's promise.
            return unsafe { x86::store_sse2(to, from, n) };
        }
        // SAFETY: the caller's promise.
        unsafe { store_words(to, from, n) }
    }

    /// Copies `n` bytes from shared `from` to private `to`.
    ///
    /// # Safety
    ///
    /// `[from, from + n)` is readable and outside of the program's own objects; `[to, to + n)` is writable and private.
    #[inline]
    pub(super) unsafe fn load(to: *mut u8, from: *const u8, n: usize) {
        #[cfg(target_arch = "x86_64")]
        if n >= 64 {
            if std::arch::is_x86_feature_detected!("avx") {
                // SAFETY: AVX is there; the rest is the caller's promise.
                return unsafe { x86::load_avx(to, from, n) };
            }
            // SAFETY: SSE2 is part of x86-64; the rest is the caller's promise.
            return unsafe { x86::load_sse2(to, from, n) };
        }
        // SAFETY: the caller's promise.
        unsafe { load_words(to, from, n) }
    }

    /// How many of `n` bytes to copy singly until `p` is aligned to `align`.
    #[inline]
    fn to_aligned(p: *const u8, align: usize, n: usize) -> usize {
        (p.addr().wrapping_neg() & (align - 1)).min(n)
    }

    #[inline]
    unsafe fn store_bytes(to: *mut u8, from: *const u8, n: usize) {
        for i in 0..n {
            // SAFETY: i < n, both ranges are valid for n bytes by the caller's promise.
            let (to, from) = unsafe { (to.add(i), from.add(i)) };
            // SAFETY: as above.
            unsafe { to.write_volatile(*from) }
        }
    }

    #[inline]
    unsafe fn load_bytes(to: *mut u8, from: *const u8, n: usize) {
        for i in 0..n {
            // SAFETY: i < n, both ranges are valid for n bytes by the caller's promise.
            let (to, from) = unsafe { (to.add(i), from.add(i)) };
            // SAFETY: as above.
            unsafe { *to = from.read_volatile() }
        }
    }

    /// # Safety
    ///
    /// As [`store`].
    #[inline]
    pub(super) unsafe fn store_words(to: *mut u8, from: *const u8, n: usize) {
        let head = to_aligned(to, 8, n);
        let words = (n - head) / 8;
        let done = head + words * 8;
        // SAFETY: three ranges that follow each other within the n bytes; the words are aligned on the shared side.
        unsafe {
            store_bytes(to, from, head);
            for i in 0..words {
                let at = head + i * 8;
                to.add(at).cast::<u64>().write_volatile(ptr::read_unaligned(from.add(at).cast()));
            }
            store_bytes(to.add(done), from.add(done), n - done);
        }
    }

    /// # Safety
    ///
    /// As [`load`].
    #[inline]
    pub(super) unsafe fn load_words(to: *mut u8, from: *const u8, n: usize) {
        let head = to_aligned(from, 8, n);
        let words = (n - head) / 8;
        let done = head + words * 8;
        // SAFETY: three ranges that follow each other within the n bytes; the words are aligned on the shared side.
        unsafe {
            load_bytes(to, from, head);
            for i in 0..words {
                let at = head + i * 8;
                ptr::write_unaligned(to.add(at).cast(), from.add(at).cast::<u64>().read_volatile());
            }
            load_bytes(to.add(done), from.add(done), n - done);
        }
    }

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::arch::x86_64::{__m128i, __m256i};
        use std::arch::x86_64::{_mm_loadu_si128, _mm_storeu_si128, _mm256_loadu_si256, _mm256_storeu_si256};

        use super::{load_words, store_words, to_aligned};

        /// A pair of copies in pieces of one vector, four at a time: one volatile vector access is one instruction.
        macro_rules! vector_copy {
            ($store:ident, $load:ident, $feature:literal, $vector:ty, $loadu:ident, $storeu:ident) => {
                /// # Safety
                ///
                /// As [`super::store`], and the processor has the feature.
                #[target_feature(enable = $feature)]
                pub(in super::super) unsafe fn $store(to: *mut u8, from: *const u8, n: usize) {
                    const SIZE: usize = size_of::<$vector>();
                    let mut i = to_aligned(to, SIZE, n);
                    // SAFETY: every access lies in the n bytes: the head up to the alignment of the shared side, whole
                    // vectors while four (then one) fit, the rest. Vector accesses of the shared side are aligned.
                    unsafe {
                        store_words(to, from, i);
                        while i + 4 * SIZE <= n {
                            let p = from.add(i).cast::<$vector>();
                            let (a, b, c, d) = ($loadu(p), $loadu(p.add(1)), $loadu(p.add(2)), $loadu(p.add(3)));
                            let q = to.add(i).cast::<$vector>();
                            q.write_volatile(a);
                            q.add(1).write_volatile(b);
                            q.add(2).write_volatile(c);
                            q.add(3).write_volatile(d);
                            i += 4 * SIZE;
                        }
                        while i + SIZE <= n {
                            to.add(i).cast::<$vector>().write_volatile($loadu(from.add(i).cast()));
                            i += SIZE;
                        }
                        store_words(to.add(i), from.add(i), n - i);
                    }
                }

                /// # Safety
                ///
                /// As [`super::load`], and the processor has the feature.
                #[target_feature(enable = $feature)]
                pub(in super::super) unsafe fn $load(to: *mut u8, from: *const u8, n: usize) {
                    const SIZE: usize = size_of::<$vector>();
                    let mut i = to_aligned(from, SIZE, n);
                    // SAFETY: as in the other direction.
                    unsafe {
                        load_words(to, from, i);
                        while i + 4 * SIZE <= n {
                            let p = from.add(i).cast::<$vector>();
                            let a = p.read_volatile();
                            let b = p.add(1).read_volatile();
                            let c = p.add(2).read_volatile();
                            let d = p.add(3).read_volatile();
                            let q = to.add(i).cast::<$vector>();
                            $storeu(q, a);
                            $storeu(q.add(1), b);
                            $storeu(q.add(2), c);
                            $storeu(q.add(3), d);
                            i += 4 * SIZE;
                        }
                        while i + SIZE <= n {
                            $storeu(to.add(i).cast(), from.add(i).cast::<$vector>().read_volatile());
                            i += SIZE;
                        }
                        load_words(to.add(i), from.add(i), n - i);
                    }
                }
            };
        }

        vector_copy!(store_avx, load_avx, "avx", __m256i, _mm256_loadu_si256, _mm256_storeu_si256);
        vector_copy!(store_sse2, load_sse2, "sse2", __m128i, _mm_loadu_si128, _mm_storeu_si128);
    }

    #[cfg(test)]
    mod tests {
        /// Every copy routine, both ways, at every alignment and around every piece size.
        #[test]
        fn copies_when_at_any_alignment_and_length_move_exactly_their_bytes() {
            type Copy = unsafe fn(*mut u8, *const u8, usize);
            let mut routines: Vec<(&str, Copy)> =
                vec![("store_words", super::store_words), ("load_words", super::load_words)];
            #[cfg(target_arch = "x86_64")]
            {
                routines.push(("store", super::store));
                routines.push(("load", super::load));
                routines.push(("store_sse2", |to, from, n| {
                    // SAFETY: SSE2 is part of x86-64; ranges below.
                    unsafe { super::x86::store_sse2(to, from, n) }
                }));
                routines.push(("load_sse2", |to, from, n| {
                    // SAFETY: as above.
                    unsafe { super::x86::load_sse2(to, from, n) }
                }));
            }
            let source: Vec<u8> = (0..400_u32).map(|i| (i * 7 + 3) as u8).collect();
            for (name, copy) in routines {
                for to_at in 0..33 {
                    for from_at in [0, 1, 7, 31] {
                        for n in (0..140).chain([255, 256, 257, 300]) {
                            let mut to = [0xee_u8; 400];
                            // SAFETY: to_at + n and from_at + n are below 400.
                            let (to_ptr, from_ptr) =
                                unsafe { (to.as_mut_ptr().add(to_at), source.as_ptr().add(from_at)) };
                            // SAFETY: as above; both ranges are private here, which is more than is asked for.
                            unsafe { copy(to_ptr, from_ptr, n) };
                            assert_eq!(
                                to[to_at..to_at + n],
                                source[from_at..from_at + n],
                                "{name} {to_at} {from_at} {n}"
                            );
                            assert!(
                                to[..to_at].iter().chain(&to[to_at + n..]).all(|&b| b == 0xee),
                                "{name} wrote beyond"
                            );
                        }
                    }
                }
            }
        }
    }
}
