//! iceoryx2: one publish-subscribe service a direction, bytes copied in and out as a stream must.
//!
//! Publishers wait for room in the subscriber's queue, so that nothing is lost. An empty message is the end of a stream.

use std::fmt::Display;
use std::hint;
use std::io::{self, Read, Write};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use iceoryx2::config::Config;
use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::port::backpressure_strategy::BackpressureStrategy;
use iceoryx2::port::listener::Listener as Events;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::sample::Sample;
use iceoryx2::service::ipc::Service;
use iceoryx2::signal_handling_mode::SignalHandlingMode;

use super::bare::{Bare, Duplex};
use crate::protocol::Place;

/// The longest message; what is longer goes as several. Other lengths have not been measured.
const MESSAGE_MAX: usize = 256 << 10;
/// Messages that can wait in a subscriber's queue.
const QUEUE: usize = 16;
/// Goes there and back before anything else: a subscriber that has not received yet is not connected yet, and messages
/// for it that do not fit its queue are not kept.
const HELLO: &[u8] = b"hello";

type Message = Sample<Service, [u8], ()>;

/// How the reading end waits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Iceoryx2 {
    /// Looks again and again.
    Busy,
    /// Sleeps until the writing end's event: each message has one.
    Event,
}

/// One end of a stream.
pub(crate) struct Stream {
    output: Publisher<Service, [u8], ()>,
    input: Subscriber<Service, [u8], ()>,
    events: Option<(Notifier<Service>, Events<Service>)>,
    /// The message being read and how much of it has been.
    message: Option<(Message, usize)>,
    ended: bool,
    /// Lives as long as its ports.
    _node: Node<Service>,
}

impl Bare for Iceoryx2 {
    type Listener = Stream;
    type Stream = Stream;

    fn bind(self, place: &Place) -> io::Result<(Stream, String)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("shmbc-bench/{}/{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let address = format!("{}\n{name}", place.dir.display());
        Ok((self.open(&address, ["there", "back"])?, address))
    }

    fn accept(self, listener: Stream) -> io::Result<Stream> {
        listener.receive()?;
        listener.send(HELLO)?;
        Ok(listener)
    }

    fn connect(self, address: &str) -> io::Result<Stream> {
        let stream = self.open(address, ["back", "there"])?;
        stream.send(HELLO)?;
        stream.receive()?;
        Ok(stream)
    }
}

impl Iceoryx2 {
    /// The ports of one end, which reads from the first of these services and writes to the second.
    fn open(self, address: &str, [input, output]: [&str; 2]) -> io::Result<Stream> {
        let (dir, name) = address.split_once('\n').ok_or_else(|| io::Error::other("no address of a service"))?;
        let mut config = Config::default();
        config.global.set_root_path(&dir.try_into().map_err(failed)?);
        let node = NodeBuilder::new().config(&config).signal_handling_mode(SignalHandlingMode::Disabled);
        let node = node.create::<Service>().map_err(failed)?;

        let bytes = |direction: &str| {
            let service = node.service_builder(&format!("{name}/{direction}").as_str().try_into().map_err(failed)?);
            let service = service.publish_subscribe::<[u8]>().enable_safe_overflow(false);
            let service = service.subscriber_max_buffer_size(QUEUE).max_publishers(1).max_subscribers(1);
            service.open_or_create().map_err(failed)
        };
        let event = |direction: &str| {
            let service =
                node.service_builder(&format!("{name}/{direction}/event").as_str().try_into().map_err(failed)?);
            service.event().open_or_create().map_err(failed)
        };
        let publisher = bytes(output)?;
        let publisher = publisher.publisher_builder().initial_max_slice_len(MESSAGE_MAX);
        let publisher = publisher.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered);
        let events = match self {
            Self::Busy => None,
            Self::Event => Some((
                event(output)?.notifier_builder().create().map_err(failed)?,
                event(input)?.listener_builder().create().map_err(failed)?,
            )),
        };
        Ok(Stream {
            input: bytes(input)?.subscriber_builder().create().map_err(failed)?,
            output: publisher.create().map_err(failed)?,
            events,
            message: None,
            ended: false,
            _node: node,
        })
    }
}

impl Stream {
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let message = self.output.loan_slice_uninit(bytes.len()).map_err(failed)?;
        message.write_from_slice(bytes).send().map_err(failed)?;
        if let Some((notifier, _)) = &self.events {
            notifier.notify().map_err(failed)?;
        }
        Ok(())
    }

    fn receive(&self) -> io::Result<Message> {
        loop {
            if let Some(message) = self.input.receive().map_err(failed)? {
                return Ok(message);
            }
            match &self.events {
                None => hint::spin_loop(),
                Some((_, events)) => drop(events.blocking_wait(|_| ()).map_err(failed)?),
            }
        }
    }
}

impl Read for Stream {
    #[inline]
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let (message, read) = match self.message.take() {
            Some(begun) => begun,
            None => (self.receive()?, 0),
        };
        let rest = &message.payload()[read..];
        let n = rest.len().min(to.len());
        to[..n].copy_from_slice(&rest[..n]);
        self.ended = rest.is_empty();
        if n < rest.len() {
            self.message = Some((message, read + n));
        }
        Ok(n)
    }
}

impl Write for Stream {
    #[inline]
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let n = from.len().min(MESSAGE_MAX);
        self.send(&from[..n])?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Duplex for Stream {
    fn finish(&mut self) -> io::Result<()> {
        self.send(&[])
    }
}

fn failed(error: impl Display) -> io::Error {
    io::Error::other(format!("iceoryx2: {error}"))
}
