//! One end of a connection, of every kind, behind one interface for a thread.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt};
use mio::{Events, Interest, Poll, Registry, Token};
use shmbc::link::{Path, Reason};
use shmbc::{Config, blocking, futures, mio as polling};
use shmbc_host::{Docker, Host, HostConfig};
use shmbc_tokio::ShmStream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// One end, used by one thread, which waits.
pub(crate) trait End: Send {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    fn write(&mut self, buf: &[u8]) -> io::Result<usize>;
    fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    fn shut(&mut self) -> io::Result<()>;
    fn upgraded(&mut self) -> Result<(), Reason>;
    fn keep_on_tcp(&mut self);
    fn path(&self) -> Path;

    fn write_all(&mut self, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let n = self.write(buf)?;
            buf = &buf[n..];
        }
        Ok(())
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.read(&mut buf[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tokio,
    Mio,
    Futures,
    Blocking,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Tokio, Kind::Mio, Kind::Futures, Kind::Blocking];

impl Kind {
    /// An end of this kind over a connection that nobody has used.
    pub(crate) fn end(self, tcp: TcpStream) -> Box<dyn End> {
        match self {
            Self::Tokio => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                tcp.set_nonblocking(true).unwrap();
                let stream = runtime.block_on(async { ShmStream::from_std(tcp) }).unwrap();
                Box::new(OfTokio { stream, runtime })
            }
            Self::Mio => {
                tcp.set_nonblocking(true).unwrap();
                Box::new(OfMio::new(polling::ShmStream::from_std(tcp)))
            }
            Self::Futures => Box::new(futures::ShmStream::from_std(tcp).unwrap()),
            Self::Blocking => Box::new(blocking::ShmStream::from_std(tcp).unwrap()),
        }
    }
}

/// A connection of the kernel's.
pub(crate) fn tcp_pair() -> (TcpStream, TcpStream) {
    host();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    (client, listener.accept().unwrap().0)
}

/// The host service of this process, started once.
fn host() -> &'static Host {
    static HOST: OnceLock<(tempfile::TempDir, tokio::runtime::Runtime, Host)> = OnceLock::new();
    let (_, _, host) = HOST.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("host.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = HostConfig::at(&socket);
        config.docker = Docker::Off;
        // Small rings: the tests meet full ones, and wrap around, all the time.
        config.ring_capacity = 64 * 1024;
        config.twin_timeout = Duration::from_secs(20);
        let host = runtime.block_on(Host::start(config)).unwrap();
        Config::from_env().unwrap().host(socket).install().unwrap();
        (dir, runtime, host)
    });
    host
}

struct OfTokio {
    // Dropped before the runtime that it is registered with.
    stream: ShmStream,
    runtime: tokio::runtime::Runtime,
}

impl End for OfTokio {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.runtime.block_on(self.stream.read(buf))
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.runtime.block_on(self.stream.write(buf))
    }

    fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.runtime.block_on(self.stream.peek(buf))
    }

    fn shut(&mut self) -> io::Result<()> {
        self.runtime.block_on(self.stream.shutdown())
    }

    fn upgraded(&mut self) -> Result<(), Reason> {
        self.runtime.block_on(self.stream.upgraded())
    }

    fn keep_on_tcp(&mut self) {
        self.stream.set_acceleration(false);
    }

    fn path(&self) -> Path {
        self.stream.path()
    }
}

/// A program that polls, and believes what the events say: it reads after a readable one and writes after a writable one.
struct OfMio {
    poll: Poll,
    events: Events,
    stream: polling::ShmStream,
    readable: bool,
    writable: bool,
}

impl OfMio {
    fn new(mut stream: polling::ShmStream) -> Self {
        let poll = Poll::new().unwrap();
        let registry: &Registry = poll.registry();
        registry.register(&mut stream, Token(7), Interest::READABLE | Interest::WRITABLE).unwrap();
        Self { poll, events: Events::with_capacity(8), stream, readable: false, writable: false }
    }

    fn turn(&mut self) -> io::Result<()> {
        self.poll.poll(&mut self.events, None)?;
        for event in &self.events {
            assert_eq!(event.token(), Token(7));
            self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        }
        Ok(())
    }

    fn reading<T>(&mut self, mut io: impl FnMut(&mut polling::ShmStream) -> io::Result<T>) -> io::Result<T> {
        loop {
            while !self.readable {
                self.turn()?;
            }
            match io(&mut self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                done => return done,
            }
        }
    }
}

impl End for OfMio {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reading(|stream| stream.read(buf))
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            while !self.writable {
                self.turn()?;
            }
            match self.stream.write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                done => return done,
            }
        }
    }

    fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reading(|stream| stream.peek(buf))
    }

    fn shut(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    fn upgraded(&mut self) -> Result<(), Reason> {
        loop {
            match self.stream.upgraded() {
                Ok(()) => {
                    (self.readable, self.writable) = (true, true);
                    return Ok(());
                }
                Err(Some(reason)) => return Err(reason),
                Err(None) => self.turn().unwrap(),
            }
        }
    }

    fn keep_on_tcp(&mut self) {
        self.stream.set_acceleration(false);
    }

    fn path(&self) -> Path {
        self.stream.path()
    }
}

impl End for futures::ShmStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        async_io::block_on(AsyncReadExt::read(self, buf))
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        async_io::block_on(AsyncWriteExt::write(self, buf))
    }

    fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        async_io::block_on(Self::peek(self, buf))
    }

    fn shut(&mut self) -> io::Result<()> {
        async_io::block_on(AsyncWriteExt::close(self))
    }

    fn upgraded(&mut self) -> Result<(), Reason> {
        async_io::block_on(Self::upgraded(self))
    }

    fn keep_on_tcp(&mut self) {
        self.set_acceleration(false);
    }

    fn path(&self) -> Path {
        Self::path(self)
    }
}

impl End for blocking::ShmStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Read::read(self, buf)
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Write::write(self, buf)
    }

    fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Self::peek(self, buf)
    }

    fn shut(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn upgraded(&mut self) -> Result<(), Reason> {
        Self::upgraded(self, None)
    }

    fn keep_on_tcp(&mut self) {
        self.set_acceleration(false);
    }

    fn path(&self) -> Path {
        Self::path(self)
    }
}
