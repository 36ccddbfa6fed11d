//! What streams of all kinds here say of themselves, written once: `blocking`, `mio` and `futures` use it.

/// What every stream over a [`Polled`] socket has: which way its bytes go, who its peer is, and the addresses and options of its TCP
/// connection. The stream has `connection()` and `tcp()`.
macro_rules! over_tcp {
    ($stream:ty) => {
        impl $stream {
            /// Which way the bytes go now, and if by TCP, why.
            pub fn path(&self) -> $crate::link::Path {
                self.connection().path()
            }

            /// Who the other end is, as the host service has proved it from what the kernel says. Nothing before a grant.
            pub fn peer_identity(&self) -> Option<&$crate::control::message::Identity> {
                self.connection().peer_identity()
            }

            /// `false` keeps this stream on TCP ([`Reason::Disabled`](crate::link::Reason::Disabled)) unless its upgrade has already been granted; `true` changes
            /// nothing, since a stream cannot take back its word to the host service.
            pub fn set_acceleration(&self, on: bool) {
                if !on {
                    self.connection().withdraw();
                }
            }

            /// Shuts one side or both. The peer reads what was written, then its end.
            ///
            /// # Errors
            ///
            /// Those of `shutdown(2)`.
            pub fn shutdown(&self, how: std::net::Shutdown) -> std::io::Result<()> {
                use std::net::Shutdown;
                if matches!(how, Shutdown::Write | Shutdown::Both) {
                    self.connection().shutdown_write()?;
                }
                if matches!(how, Shutdown::Read | Shutdown::Both) {
                    self.tcp().shutdown(Shutdown::Read)?;
                }
                Ok(())
            }

            /// The address of this end.
            ///
            /// # Errors
            ///
            /// Those of `getsockname(2)`.
            pub fn local_addr(&self) -> std::io::Result<std::net::SocketAddr> {
                self.tcp().local_addr()
            }

            /// The address of the other end.
            ///
            /// # Errors
            ///
            /// `NotConnected` after a reset.
            pub fn peer_addr(&self) -> std::io::Result<std::net::SocketAddr> {
                self.tcp().peer_addr()
            }

            /// The pending error of the socket, which this takes.
            ///
            /// # Errors
            ///
            /// Those of `getsockopt(2)`.
            pub fn take_error(&self) -> std::io::Result<Option<std::io::Error>> {
                self.tcp().take_error()
            }

            /// The value of `TCP_NODELAY`. Without meaning for shared memory, where every write is visible at once.
            ///
            /// # Errors
            ///
            /// Those of `getsockopt(2)`.
            pub fn nodelay(&self) -> std::io::Result<bool> {
                self.tcp().nodelay()
            }

            /// Sets `TCP_NODELAY` on the TCP connection.
            ///
            /// # Errors
            ///
            /// Those of `setsockopt(2)`.
            pub fn set_nodelay(&self, nodelay: bool) -> std::io::Result<()> {
                self.tcp().set_nodelay(nodelay)
            }

            /// The value of `IP_TTL`.
            ///
            /// # Errors
            ///
            /// Those of `getsockopt(2)`.
            pub fn ttl(&self) -> std::io::Result<u32> {
                self.tcp().ttl()
            }

            /// Sets `IP_TTL` on the TCP connection.
            ///
            /// # Errors
            ///
            /// Those of `setsockopt(2)`.
            pub fn set_ttl(&self, ttl: u32) -> std::io::Result<()> {
                self.tcp().set_ttl(ttl)
            }
        }

        /// The TCP connection: for socket options and addresses. Bytes must go through the stream.
        impl std::os::fd::AsFd for $stream {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                std::os::fd::AsFd::as_fd(self.tcp())
            }
        }

        /// As [`AsFd`](std::os::fd::AsFd).
        impl std::os::fd::AsRawFd for $stream {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                std::os::fd::AsRawFd::as_raw_fd(self.tcp())
            }
        }

        impl std::fmt::Debug for $stream {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct("ShmStream").field("tcp", self.tcp()).field("path", &self.path()).finish()
            }
        }
    };
}
pub(crate) use over_tcp;
