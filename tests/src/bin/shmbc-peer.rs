//! One end of a connection in a process of its own: takes [`Command`]s from standard input, one a line, and answers on standard
//! output. It ends when its input does, so that no test can leave one behind.

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use shmbc_tests::script::{Answer, Command, Kind, Move, Moved};
use shmbc_tests::{Pattern, raw};
use shmbc_tokio::{ShmListener, ShmStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Largest single read or write. Not a divisor of anything, so that pieces end everywhere.
const PIECE: usize = 24_571;

enum Listener {
    Tcp(TcpListener),
    Shm(ShmListener),
}

enum Stream {
    Tcp(TcpStream),
    Shm(Box<ShmStream>),
}

macro_rules! on {
    ($stream:expr, $s:ident => $body:expr) => {
        match $stream {
            Stream::Tcp($s) => $body,
            Stream::Shm($s) => $body,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on!(self.get_mut(), s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on!(self.get_mut(), s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self.get_mut(), s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self.get_mut(), s => Pin::new(s).poll_shutdown(cx))
    }
}

/// A stream and how far it has come.
struct End {
    stream: Stream,
    /// What this end writes and what it reads: each the other's.
    patterns: [Pattern; 2],
    written: u64,
    read: u64,
}

#[derive(Default)]
struct Peer {
    listener: Option<Listener>,
    ends: Vec<Option<End>>,
}

fn say(answer: &Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    out.flush()
}

#[tokio::main(worker_threads = 2)]
async fn main() -> io::Result<()> {
    let (lines, mut commands) = tokio::sync::mpsc::unbounded_channel();
    // A thread and not tokio's stdin: the process is to end with its input whatever the runtime is busy with.
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    let mut peer = Peer::default();
    while let Some(line) = commands.recv().await {
        let answer = match serde_json::from_str(&line) {
            Err(error) => Answer::Failed("NoCommand".into(), format!("{line:?}: {error}")),
            Ok(command) => peer
                .obey(command)
                .await
                .unwrap_or_else(|error| Answer::Failed(format!("{:?}", error.kind()), error.to_string())),
        };
        say(&answer)?;
    }
    Ok(())
}

impl Peer {
    async fn obey(&mut self, command: Command) -> io::Result<Answer> {
        Ok(match command {
            Command::Listen(kind, address) => {
                let (listener, address) = listen(kind, address).await?;
                self.listener = Some(listener);
                Answer::Address(address)
            }
            Command::Accept => {
                let stream = match self.listener.as_ref().ok_or_else(|| io::Error::other("listen first"))? {
                    Listener::Tcp(listener) => Stream::Tcp(listener.accept().await?.0),
                    Listener::Shm(listener) => Stream::Shm(Box::new(listener.accept().await?.0)),
                };
                self.keep(stream, [Pattern::new(2), Pattern::new(1)])
            }
            Command::Connect(kind, address) => {
                let stream = match kind {
                    Kind::Tcp => Stream::Tcp(TcpStream::connect(address).await?),
                    Kind::Shm => Stream::Shm(Box::new(ShmStream::connect(address).await?)),
                };
                self.keep(stream, [Pattern::new(1), Pattern::new(2)])
            }
            Command::Move(stream, step) => Answer::Moved(self.end(stream)?.shift(step).await?),
            Command::PingPong { stream, first, rounds, bytes } => {
                let end = self.end(stream)?;
                let mut sum = Moved::default();
                for turn in 0..rounds * 2 {
                    let mine = first == (turn % 2 == 0);
                    let step = if mine {
                        Move { write: bytes, ..Move::default() }
                    } else {
                        Move { read: bytes, ..Move::default() }
                    };
                    let moved = end.shift(step).await?;
                    sum = Moved { wrote: sum.wrote + moved.wrote, read: sum.read + moved.read, ..moved };
                    if sum.read_end.is_some() || sum.write_end.is_some() {
                        break;
                    }
                }
                Answer::Moved(sum)
            }
            Command::WriteUntilError(stream) => Answer::Moved(self.end(stream)?.write_until_error().await?),
            Command::Shutdown(stream) => {
                self.end(stream)?.stream.shutdown().await?;
                Answer::Done
            }
            Command::Drop(stream) => {
                drop(self.ends.get_mut(stream).and_then(Option::take));
                Answer::Done
            }
            Command::DropInChild(stream) => {
                let Some(child) = raw::fork()? else {
                    drop(self.ends.get_mut(stream).and_then(Option::take));
                    raw::exit_at_once();
                };
                nix::sys::wait::waitpid(child, None)?;
                Answer::Done
            }
            Command::DropListenerInChild => {
                // One that has found nobody at its door hears of the next only from the reactor.
                if let Some(Listener::Shm(listener)) = &self.listener {
                    std::future::poll_fn(|cx| Poll::Ready(listener.poll_accept(cx).is_pending())).await;
                }
                let Some(child) = raw::fork()? else {
                    drop(self.listener.take());
                    raw::exit_at_once();
                };
                nix::sys::wait::waitpid(child, None)?;
                Answer::Done
            }
            Command::ZeroLinger(stream) => {
                on!(&self.end(stream)?.stream, s => s.set_zero_linger()?);
                Answer::Done
            }
            Command::Path(stream) => Answer::Text(self.shm(stream)?.path().to_string()),
            Command::Upgraded(stream) => Answer::Text(match self.shm(stream)?.upgraded().await {
                Ok(()) => "upgraded".into(),
                Err(reason) => reason.to_string(),
            }),
            Command::Identity(stream) => Answer::Pid(self.shm(stream)?.peer_identity().map(|identity| identity.pid)),
            Command::Acceleration(stream, on) => {
                self.shm(stream)?.set_acceleration(on);
                Answer::Done
            }
            Command::Exit(status) => std::process::exit(status),
        })
    }

    fn keep(&mut self, stream: Stream, patterns: [Pattern; 2]) -> Answer {
        self.ends.push(Some(End { stream, patterns, written: 0, read: 0 }));
        Answer::Stream(self.ends.len() - 1)
    }

    fn end(&mut self, stream: usize) -> io::Result<&mut End> {
        let end = self.ends.get_mut(stream).and_then(Option::as_mut);
        end.ok_or_else(|| io::Error::other(format!("no stream {stream}, or no longer")))
    }

    fn shm(&mut self, stream: usize) -> io::Result<&mut ShmStream> {
        match &mut self.end(stream)?.stream {
            Stream::Shm(stream) => Ok(stream),
            Stream::Tcp(_) => Err(io::Error::other("a plain TCP stream has no path")),
        }
    }
}

async fn listen(kind: Kind, address: SocketAddr) -> io::Result<(Listener, SocketAddr)> {
    Ok(match kind {
        Kind::Tcp => {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            (Listener::Tcp(listener), address)
        }
        Kind::Shm => {
            let listener = ShmListener::bind(address).await?;
            let address = listener.local_addr()?;
            (Listener::Shm(listener), address)
        }
    })
}

/// Says once that so many bytes have been moved.
struct Teller {
    at: Option<u64>,
    moved: AtomicU64,
}

impl Teller {
    fn moved(&self, n: u64) -> io::Result<()> {
        let before = self.moved.fetch_add(n, Ordering::Relaxed);
        match self.at {
            Some(at) if before < at && before + n >= at => say(&Answer::Moving),
            _ => Ok(()),
        }
    }
}

impl End {
    async fn shift(&mut self, step: Move) -> io::Result<Moved> {
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let teller = Arc::new(Teller { at: step.tell_at, moved: AtomicU64::new(0) });
        if step.tell_at == Some(0) {
            say(&Answer::Moving)?;
        }
        let [mine, its] = self.patterns;
        let (written, read) = (self.written, self.read);
        let writing = async {
            let (mut done, mut piece) = (0, vec![0; PIECE]);
            while done < step.write {
                let n = PIECE.min(usize::try_from(step.write - done).unwrap_or(PIECE));
                mine.fill(written + done, &mut piece[..n]);
                let n = match writer.write(&piece[..n]).await {
                    Ok(n) => n,
                    Err(error) => return Ok((done, Some(format!("{:?}", error.kind())))),
                };
                done += n as u64;
                teller.moved(n as u64)?;
            }
            io::Result::Ok((done, None))
        };
        let reading = async {
            let (mut done, mut piece) = (0, vec![0; PIECE]);
            while done < step.read {
                let n = PIECE.min(usize::try_from(step.read - done).unwrap_or(PIECE));
                let n = match reader.read(&mut piece[..n]).await {
                    Ok(0) => return Ok((done, Some("eof".to_owned()))),
                    Ok(n) => n,
                    Err(error) => return Ok((done, Some(format!("{:?}", error.kind())))),
                };
                its.check(read + done, &piece[..n]).map_err(io::Error::other)?;
                done += n as u64;
                teller.moved(n as u64)?;
            }
            io::Result::Ok((done, None))
        };
        let ((wrote, write_end), (got, read_end)) = tokio::try_join!(writing, reading)?;
        self.written += wrote;
        self.read += got;
        Ok(Moved { wrote, read: got, write_end, read_end })
    }

    async fn write_until_error(&mut self) -> io::Result<Moved> {
        let mut moved = Moved::default();
        loop {
            match self.stream.write(b"?").await {
                Ok(n) => moved.wrote += n as u64,
                Err(error) => {
                    moved.write_end = Some(format!("{:?}", error.kind()));
                    return Ok(moved);
                }
            }
            // What the kernel has to say comes when it comes; this only spares the processor meanwhile.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
