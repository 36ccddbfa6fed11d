//! Limit: the ring of SHMBC and nothing else. No doorbell, no runtime, no host service; both ends spin.
//!
//! A Unix connection stands for the lifeline: it tells where the block is, and its end is the end of the stream.

use std::fs::File;
use std::hint;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process;
use std::sync::Arc;

use shmbc::block::{self, Block};
use shmbc::layout::{Direction, Sizes};
use shmbc::ring::{Consumer, Producer};
use shmbc::sys::Mapping;

use super::bare::{Bare, Duplex};
use super::uds;
use crate::protocol::Place;

/// Looks at an empty ring between two looks at the lifeline, which is a system call.
const LOOKS: u32 = 4096;

/// Both directions of one block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring;

/// The block and where its other end is told of it.
pub(crate) struct Listener {
    block: Block,
    lifeline: UnixListener,
}

/// One end of a block.
pub(crate) struct Stream {
    producer: Producer,
    consumer: Consumer,
    lifeline: UnixStream,
}

impl Bare for Ring {
    type Listener = Listener;
    type Stream = Stream;

    fn bind(self, place: &Place) -> io::Result<(Listener, String)> {
        let block = Block::create(Sizes::new([place.ring; 2]).map_err(io::Error::other)?)?;
        let path = uds::new_path(place)?;
        let lifeline = UnixListener::bind(&path)?;
        let address = format!("{} {} {} {path}", place.ring, process::id(), block.as_fd().as_raw_fd());
        Ok((Listener { block, lifeline }, address))
    }

    fn accept(self, listener: Listener) -> io::Result<Stream> {
        let (lifeline, _) = listener.lifeline.accept()?;
        let sizes = listener.block.sizes();
        let memory = block::verify(listener.block.as_fd().try_clone_to_owned()?, sizes).map_err(io::Error::other)?;
        Stream::new(memory, sizes, Direction::BToA, Direction::AToB, lifeline)
    }

    fn connect(self, address: &str) -> io::Result<Stream> {
        let mut words = address.splitn(4, ' ');
        let mut word = || words.next().ok_or_else(|| io::Error::other(format!("no address of a ring: {address}")));
        let capacity = word()?.parse().map_err(io::Error::other)?;
        // Before the lifeline: once that is accepted the other end closes its descriptor.
        let memory = File::options().read(true).write(true).open(format!("/proc/{}/fd/{}", word()?, word()?))?;
        let lifeline = UnixStream::connect(word()?)?;
        let sizes = Sizes::new([capacity; 2]).map_err(io::Error::other)?;
        let memory = block::verify(memory.into(), sizes).map_err(io::Error::other)?;
        Stream::new(memory, sizes, Direction::AToB, Direction::BToA, lifeline)
    }
}

impl Stream {
    fn new(memory: Mapping, sizes: Sizes, out: Direction, back: Direction, lifeline: UnixStream) -> io::Result<Self> {
        let memory = Arc::new(memory);
        lifeline.set_nonblocking(true)?;
        let producer = Producer::new(Arc::clone(&memory), sizes, out);
        Ok(Self { producer, consumer: Consumer::new(memory, sizes, back), lifeline })
    }

    /// Whether the other end has finished, or is gone.
    fn ended(&mut self) -> io::Result<bool> {
        match self.lifeline.read(&mut [0; 1]) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl Read for Stream {
    #[inline]
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut ended = false;
        loop {
            for _ in 0..LOOKS {
                let (n, _) = self.consumer.read(to).map_err(io::Error::other)?;
                if n > 0 {
                    return Ok(n);
                }
                if ended {
                    return Ok(0);
                }
                hint::spin_loop();
            }
            // What was written before the end is in the ring by now: one more look.
            ended = self.ended()?;
        }
    }
}

impl Write for Stream {
    #[inline]
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        loop {
            for _ in 0..LOOKS {
                let (n, _) = self.producer.write(from).map_err(io::Error::other)?;
                if n > 0 {
                    return Ok(n);
                }
                hint::spin_loop();
            }
            if self.ended()? {
                return Err(ErrorKind::BrokenPipe.into());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Duplex for Stream {
    fn finish(&mut self) -> io::Result<()> {
        self.lifeline.shutdown(Shutdown::Write)
    }
}
