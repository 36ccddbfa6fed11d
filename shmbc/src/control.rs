//! What a client and the host service say to each other.
//!
//! The control socket is `SOCK_SEQPACKET`: one frame, one datagram, never merged or split by the kernel.
//! [`message`] has the plain types and their limits, [`codec`] turns bytes into messages and back and accepts nothing
//! else, [`socket`] moves one frame with its descriptors, and [`client`] asks for tables, for people.

pub mod client;
pub mod codec;
pub mod message;
pub mod socket;
