//! Addresses and socket options: those of the TCP connection, which stays.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;

use super::ShmStream;

impl ShmStream {
    /// The local address of the TCP connection.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    /// The remote address of the TCP connection.
    ///
    /// # Errors
    ///
    /// `NotConnected` after a reset.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    /// The pending error of the socket, which this takes.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.tcp().take_error()
    }

    /// The value of `TCP_NODELAY`. Without meaning for shared memory, where every write is visible at once.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.tcp().nodelay()
    }

    /// Sets `TCP_NODELAY` on the TCP connection.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.tcp().set_nodelay(nodelay)
    }

    /// The value of `TCP_QUICKACK`. Without meaning for shared memory, where nothing is acknowledged.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn quickack(&self) -> io::Result<bool> {
        self.tcp().quickack()
    }

    /// Sets `TCP_QUICKACK` on the TCP connection.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_quickack(&self, quickack: bool) -> io::Result<()> {
        self.tcp().set_quickack(quickack)
    }

    /// The value of `SO_LINGER`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        SockRef::from(self.tcp()).linger()
    }

    /// Sets `SO_LINGER` on the TCP connection, like [`TcpStream::set_linger`](tokio::net::TcpStream::set_linger). Bytes in shared memory have reached the peer and are
    /// not waited for; a linger of zero means the same as with [`set_zero_linger`](Self::set_zero_linger).
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    #[deprecated = "`SO_LINGER` causes the socket to block the thread on drop"]
    pub fn set_linger(&self, dur: Option<Duration>) -> io::Result<()> {
        SockRef::from(self.tcp()).set_linger(dur)
    }

    /// Makes dropping the stream reset the connection, like [`TcpStream::set_zero_linger`](tokio::net::TcpStream::set_zero_linger): the peer reads what has reached
    /// it, then gets `ConnectionReset`.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO))
    }

    /// The value of `IP_TTL`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn ttl(&self) -> io::Result<u32> {
        self.tcp().ttl()
    }

    /// Sets `IP_TTL` on the TCP connection.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.tcp().set_ttl(ttl)
    }
}
