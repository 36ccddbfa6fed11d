//! [`ShmSocket`]: tokio's `TcpSocket`, a socket that is set up before it connects or listens. A real one: it only forwards.

mod raw;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpSocket;

use crate::listener::ShmListener;
use crate::stream::ShmStream;

/// A TCP socket that is not connected yet, to set options or bind it before it connects or listens. See
/// [`tokio::net::TcpSocket`].
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// let socket = shmbc_tokio::ShmSocket::new_v4()?;
/// socket.set_reuseport(true)?;
/// socket.bind("0.0.0.0:7000".parse().unwrap())?;
/// let listener = socket.listen(1024)?;
/// # Ok(())
/// # }
/// ```
pub struct ShmSocket {
    tcp: TcpSocket,
}

impl ShmSocket {
    /// A new socket for IPv4.
    ///
    /// # Errors
    ///
    /// Those of `socket(2)`.
    pub fn new_v4() -> io::Result<Self> {
        Ok(Self { tcp: TcpSocket::new_v4()? })
    }

    /// A new socket for IPv6.
    ///
    /// # Errors
    ///
    /// Those of `socket(2)`.
    pub fn new_v6() -> io::Result<Self> {
        Ok(Self { tcp: TcpSocket::new_v6()? })
    }

    /// Takes over a standard library stream that is not connected, and makes it non-blocking.
    pub fn from_std_stream(std_stream: std::net::TcpStream) -> Self {
        Self { tcp: TcpSocket::from_std_stream(std_stream) }
    }

    /// The value of `SO_KEEPALIVE`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn keepalive(&self) -> io::Result<bool> {
        self.tcp.keepalive()
    }

    /// Sets `SO_KEEPALIVE`.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_keepalive(&self, keepalive: bool) -> io::Result<()> {
        self.tcp.set_keepalive(keepalive)
    }

    /// The value of `SO_REUSEADDR`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn reuseaddr(&self) -> io::Result<bool> {
        self.tcp.reuseaddr()
    }

    /// Sets `SO_REUSEADDR`.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_reuseaddr(&self, reuseaddr: bool) -> io::Result<()> {
        self.tcp.set_reuseaddr(reuseaddr)
    }

    /// The value of `SO_REUSEPORT`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn reuseport(&self) -> io::Result<bool> {
        self.tcp.reuseport()
    }

    /// Sets `SO_REUSEPORT`: several listeners share a port. The connections of each can be upgraded.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_reuseport(&self, reuseport: bool) -> io::Result<()> {
        self.tcp.set_reuseport(reuseport)
    }

    /// The value of `SO_SNDBUF`, which Linux doubles.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn send_buffer_size(&self) -> io::Result<u32> {
        self.tcp.send_buffer_size()
    }

    /// Sets `SO_SNDBUF`: bytes by TCP. The size of the ring is the host service's.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_send_buffer_size(&self, size: u32) -> io::Result<()> {
        self.tcp.set_send_buffer_size(size)
    }

    /// The value of `SO_RCVBUF`, which Linux doubles.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn recv_buffer_size(&self) -> io::Result<u32> {
        self.tcp.recv_buffer_size()
    }

    /// Sets `SO_RCVBUF`: bytes by TCP. The size of the ring is the host service's.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_recv_buffer_size(&self, size: u32) -> io::Result<()> {
        self.tcp.set_recv_buffer_size(size)
    }

    /// The value of `SO_LINGER`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        self.tcp.linger()
    }

    /// Sets `SO_LINGER`. Dropping a socket that lingers blocks its thread.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    #[deprecated = "`SO_LINGER` causes the socket to block the thread on drop"]
    pub fn set_linger(&self, dur: Option<Duration>) -> io::Result<()> {
        SockRef::from(&self.tcp).set_linger(dur)
    }

    /// Makes dropping the connection reset it: see [`ShmStream::set_zero_linger`].
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        self.tcp.set_zero_linger()
    }

    /// The value of `TCP_NODELAY`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.tcp.nodelay()
    }

    /// Sets `TCP_NODELAY`. Without meaning for shared memory, where every write is visible at once.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.tcp.set_nodelay(nodelay)
    }

    /// The value of `IPV6_TCLASS`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn tclass_v6(&self) -> io::Result<u32> {
        self.tcp.tclass_v6()
    }

    /// Sets `IPV6_TCLASS`.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_tclass_v6(&self, tclass: u32) -> io::Result<()> {
        self.tcp.set_tclass_v6(tclass)
    }

    /// The value of `IP_TOS`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn tos_v4(&self) -> io::Result<u32> {
        self.tcp.tos_v4()
    }

    /// Sets `IP_TOS`.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_tos_v4(&self, tos: u32) -> io::Result<()> {
        self.tcp.set_tos_v4(tos)
    }

    /// The value of `IP_TOS`: the old name of [`tos_v4`](Self::tos_v4).
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    #[deprecated(note = "`tos` related methods have been renamed `tos_v4` since they are IPv4-specific.")]
    pub fn tos(&self) -> io::Result<u32> {
        self.tcp.tos_v4()
    }

    /// Sets `IP_TOS`: the old name of [`set_tos_v4`](Self::set_tos_v4).
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    #[deprecated(note = "`tos` related methods have been renamed `tos_v4` since they are IPv4-specific.")]
    pub fn set_tos(&self, tos: u32) -> io::Result<()> {
        self.tcp.set_tos_v4(tos)
    }

    /// The value of `SO_BINDTODEVICE`: the name of a network interface.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn device(&self) -> io::Result<Option<Vec<u8>>> {
        self.tcp.device()
    }

    /// Sets `SO_BINDTODEVICE`; nothing or an empty name takes the binding back.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn bind_device(&self, interface: Option<&[u8]>) -> io::Result<()> {
        self.tcp.bind_device(interface)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The pending error of the socket, which this takes.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.tcp.take_error()
    }

    /// Binds it to `addr`.
    ///
    /// # Errors
    ///
    /// Those of `bind(2)`.
    pub fn bind(&self, addr: SocketAddr) -> io::Result<()> {
        self.tcp.bind(addr)
    }

    /// Connects it, like [`ShmStream::connect`].
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`.
    ///
    /// # Panics
    ///
    /// Outside of a runtime with I/O enabled.
    pub async fn connect(self, addr: SocketAddr) -> io::Result<ShmStream> {
        self.tcp.connect(addr).await.map(ShmStream::fresh)
    }

    /// Turns it into a listener; `backlog` is the most connections that wait to be accepted.
    ///
    /// # Errors
    ///
    /// Those of `listen(2)`.
    ///
    /// # Panics
    ///
    /// Outside of a runtime with I/O enabled.
    pub fn listen(self, backlog: u32) -> io::Result<ShmListener> {
        self.tcp.listen(backlog).map(ShmListener::new)
    }
}

impl fmt::Debug for ShmSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmSocket").field("tcp", &self.tcp).finish()
    }
}

impl AsFd for ShmSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl AsRawFd for ShmSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.tcp.as_raw_fd()
    }
}

impl IntoRawFd for ShmSocket {
    fn into_raw_fd(self) -> RawFd {
        self.tcp.into_raw_fd()
    }
}
