//! One stream suite: over plain TCP, over shared memory, and across a switch placed at every byte offset.
//!
//! Both ends live in this process, the host service in a thread of it; grants, blocks and doorbells are the real ones.

mod cancel;
mod conversation;
mod ends;
mod methods;
mod pair;
mod soak;
mod switch;
