//! What is promised to every kind of stream, whatever the other end is.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use shmbc::blocking::{ShmListener, ShmStream};
use shmbc::link::{Path, Reason};
use shmbc_tests::Pattern;

use crate::kinds::{End, KINDS, Kind, tcp_pair};

/// How a connection moves its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcp,
    Shm,
    /// Upgraded by the traffic, while it runs.
    Switching,
}

/// Nothing here takes more than a second or two. Whoever hangs shall say so.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

/// Runs both ends, each in a thread, over connections of every two kinds that go every way.
fn between_all(
    client: impl Fn(&mut Box<dyn End>, Way) -> io::Result<()> + Send + Sync + Copy + 'static,
    server: impl Fn(&mut Box<dyn End>, Way) -> io::Result<()> + Send + Sync + Copy + 'static,
) {
    for way in [Way::Tcp, Way::Shm, Way::Switching] {
        for (one, other) in KINDS.iter().flat_map(|one| KINDS.map(|other| (*one, other))) {
            between(one, other, way, client, server);
        }
    }
}

/// What one end does.
type Part = Box<dyn Fn(&mut Box<dyn End>, Way) -> io::Result<()> + Send>;

fn between(
    one: Kind,
    other: Kind,
    way: Way,
    client: impl Fn(&mut Box<dyn End>, Way) -> io::Result<()> + Send + 'static,
    server: impl Fn(&mut Box<dyn End>, Way) -> io::Result<()> + Send + 'static,
) {
    let (a, b) = tcp_pair();
    let (done, ended) = mpsc::channel();
    let run = |kind: Kind, tcp, part: Part| {
        let done = done.clone();
        thread::spawn(move || {
            let mut end = kind.end(tcp);
            match way {
                Way::Tcp => end.keep_on_tcp(),
                Way::Shm => end.upgraded().unwrap(),
                Way::Switching => {}
            }
            let result = part(&mut end, way);
            done.send((kind, result)).unwrap();
        });
    };
    run(one, a, Box::new(client));
    run(other, b, Box::new(server));
    for _ in 0..2 {
        let (kind, result) = ended
            .recv_timeout(WATCHDOG)
            .unwrap_or_else(|error| panic!("{one:?} with {other:?}, {way:?}: an end hangs or panicked: {error}"));
        if let Err(error) = result {
            panic!("{kind:?} in {one:?} with {other:?}, {way:?}: {error}");
        }
    }
}

/// Eight times the ring, in pieces that do not divide it.
const LENGTH: u64 = 8 * 64 * 1024 + 77;

fn send(end: &mut dyn End, seed: u64) -> io::Result<()> {
    let (mut sent, mut size) = (0, 1);
    while sent < LENGTH {
        size = size * 3 % 9001 + 1;
        let mut piece = vec![0; size.min((LENGTH - sent) as usize)];
        Pattern::new(seed).fill(sent, &mut piece);
        end.write_all(&piece)?;
        sent += piece.len() as u64;
    }
    Ok(())
}

fn receive(end: &mut dyn End, seed: u64) -> io::Result<()> {
    let (mut got, mut buf) = (0, vec![0; 7919]);
    while got < LENGTH {
        let want = buf.len().min((LENGTH - got) as usize);
        let n = end.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Pattern::new(seed).check(got, &buf[..n]).map_err(io::Error::other)?;
        got += n as u64;
    }
    Ok(())
}

fn ends(end: &mut dyn End) -> io::Result<()> {
    match end.read(&mut [0; 16])? {
        0 => Ok(()),
        n => Err(io::Error::other(format!("{n} bytes where the end should be"))),
    }
}

#[test]
fn bytes_when_sent_and_answered_after_a_half_close_arrive_whole_and_then_end() {
    between_all(
        |end, _| {
            send(end.as_mut(), 1)?;
            end.shut()?;
            receive(end.as_mut(), 2)?;
            ends(end.as_mut())
        },
        |end, _| {
            receive(end.as_mut(), 1)?;
            ends(end.as_mut())?;
            send(end.as_mut(), 2)
        },
    );
}

#[test]
fn requests_when_small_and_many_are_all_answered_and_the_connection_is_upgraded() {
    const ROUNDS: u32 = 300;
    between_all(
        |end, way| {
            for round in 0..ROUNDS {
                end.write_all(&round.to_le_bytes())?;
                let mut answer = [0; 4];
                end.read_exact(&mut answer)?;
                assert_eq!(u32::from_le_bytes(answer), !round);
            }
            // Traffic goes on until the upgrade is there.
            while way == Way::Switching && end.path() == Path::Tcp(Reason::NotYet) {
                end.write_all(&7_u32.to_le_bytes())?;
                end.read_exact(&mut [0; 4])?;
            }
            let expected = if way == Way::Tcp { Path::Tcp(Reason::Disabled) } else { Path::SharedMemory };
            if end.path() == expected { Ok(()) } else { Err(io::Error::other(end.path().to_string())) }
        },
        |end, _| {
            let mut request = [0; 4];
            loop {
                match end.read_exact(&mut request) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                    other => other?,
                }
                end.write_all(&(!u32::from_le_bytes(request)).to_le_bytes())?;
            }
        },
    );
}

#[test]
fn bytes_when_peeked_at_stay_and_the_end_is_seen_without_reading() {
    between_all(
        |end, _| {
            end.write_all(b"look")?;
            end.read_exact(&mut [0; 1])
        },
        |end, _| {
            let mut seen = [0; 2];
            assert_eq!((end.peek(&mut seen)?, &seen), (2, b"lo"));
            assert_eq!((end.peek(&mut seen)?, &seen), (2, b"lo"));
            let mut whole = [0; 4];
            end.read_exact(&mut whole)?;
            assert_eq!(&whole, b"look");
            end.write_all(b"!")?;
            assert_eq!(end.peek(&mut seen)?, 0);
            ends(end.as_mut())
        },
    );
}

#[test]
fn writer_when_its_peer_goes_while_it_sleeps_on_a_full_ring_gets_an_error() {
    between_all(
        |end, _| {
            let piece = vec![0; 10_000];
            loop {
                match end.write_all(&piece) {
                    Ok(()) => {}
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
                    {
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
        },
        // Enough to have met a full ring and a sleeping writer; then it goes, with bytes unread.
        |end, _| end.read_exact(&mut vec![0; 300_000]),
    );
}

#[test]
fn threads_when_one_reads_and_one_writes_on_one_blocking_stream_do_not_disturb_each_other() {
    drop(tcp_pair()); // Starts the host service first.
    let listener = ShmListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (done, ended) = mpsc::channel();
    let both_ways = |stream: ShmStream, mine: u64, theirs: u64| {
        stream.upgraded(None).unwrap();
        let (writer, mut reader) = (stream.try_clone().unwrap(), stream);
        let writing = thread::spawn(move || {
            let mut writer: Box<dyn End> = Box::new(writer);
            send(writer.as_mut(), mine).unwrap();
            writer.shut().unwrap();
        });
        receive(&mut reader, theirs).unwrap();
        ends(&mut reader).unwrap();
        writing.join().unwrap();
        reader.path()
    };
    for _ in 0..8 {
        let client = thread::spawn({
            let done = done.clone();
            move || done.send(both_ways(ShmStream::connect(address).unwrap(), 1, 2))
        });
        let server = thread::spawn({
            let (listener, done) = (listener.try_clone().unwrap(), done.clone());
            move || done.send(both_ways(listener.accept().unwrap().0, 2, 1))
        });
        for _ in 0..2 {
            assert_eq!(ended.recv_timeout(WATCHDOG).expect("an end hangs"), Path::SharedMemory);
        }
        client.join().unwrap().unwrap();
        server.join().unwrap().unwrap();
    }
}
