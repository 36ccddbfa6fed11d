//! The same conversations between every two kinds of streams: tokio's, mio's, futures' and blocking ones, on TCP, in shared
//! memory and across the switch.
//!
//! Both ends live in this process, each in a thread with whatever runs its kind; the host service in a thread more.

mod conversation;
mod kinds;
mod polling;
mod threads;
