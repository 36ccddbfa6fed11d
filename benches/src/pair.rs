//! A contender's two processes, as the run sees them: started once, asked for one sample at a time, gone when dropped.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::calls::Calls;
use crate::names::Contender;
use crate::protocol::{Namespace, Outcome, Place, Reply, Request, Start, Work};

/// A worker that says nothing for so long hangs: far above what a sample of any length allowed here takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the other end may take to say what it knows of a failure.
const SECOND_OPINION: Duration = Duration::from_secs(1);

/// One worker process.
pub(crate) struct Worker {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts a process of this same program and tells it who it is.
    pub(crate) async fn start(start: &Start, host: Option<&Path>) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|e| format!("cannot find this program's own file: {e}"))?;
        let mut command = Command::new(program);
        command.arg("worker");
        Self::start_by(command, start, host).await
    }

    /// Starts a process of this same program by a command that leads to it.
    pub(crate) async fn start_by(mut command: Command, start: &Start, host: Option<&Path>) -> Result<Self, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        // What the environment says of SHMBC is for other programs: each contender sets its own way of waiting.
        command
            .env_remove("SHMBC_WAIT")
            .env_remove("SHMBC_UPGRADE")
            .env("SHMBC_HOST", host.unwrap_or_else(|| "off".as_ref()));
        let mut child = command.spawn().map_err(|e| format!("cannot start a worker: {e}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a worker has no standard input and output".into());
        };
        let mut worker = Self { child, input, output: BufReader::new(output).lines() };
        worker.say(start).await?;
        worker.started().await?;
        Ok(worker)
    }

    /// Asks for something that is done at once.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<(), String> {
        self.say(request).await?;
        self.started().await
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Result<u32, String> {
        self.child.id().ok_or_else(|| "a worker has ended".to_owned())
    }

    async fn say<T: serde::Serialize>(&mut self, message: &T) -> Result<(), String> {
        let mut line = serde_json::to_vec(message).map_err(|e| e.to_string())?;
        line.push(b'\n');
        let sent = async {
            self.input.write_all(&line).await?;
            self.input.flush().await
        };
        sent.await.map_err(|e: io::Error| format!("a worker has ended: {e}"))
    }

    async fn reply(&mut self) -> Result<Reply, String> {
        let line = timeout(PATIENCE, self.output.next_line()).await;
        let line = line.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?;
        let line = line.map_err(|e| e.to_string())?.ok_or("the process ended")?;
        match serde_json::from_str(&line).map_err(|e| format!("not an answer: {line}: {e}"))? {
            Reply::Failed { why } => Err(why),
            reply => Ok(reply),
        }
    }

    async fn started(&mut self) -> Result<(), String> {
        match self.reply().await? {
            Reply::Started => Ok(()),
            other => Err(format!("not an answer to that: {other:?}")),
        }
    }

    async fn done(&mut self) -> Result<Outcome, String> {
        match self.reply().await? {
            Reply::Done(outcome) => Ok(outcome),
            other => Err(format!("not an answer to that: {other:?}")),
        }
    }
}

/// The listening and the connecting process.
pub(crate) struct Pair {
    pub(crate) server: Worker,
    pub(crate) client: Worker,
}

impl Pair {
    /// Starts both.
    pub(crate) async fn start([server, client]: &[Start; 2], host: Option<&Path>) -> Result<Self, String> {
        Ok(Self { server: Worker::start(server, host).await?, client: Worker::start(client, host).await? })
    }

    /// Takes one sample and counts the system calls of both processes meanwhile.
    pub(crate) async fn sample_calls(
        &mut self,
        contenders: &[Contender],
        work: Work,
        dir: &Path,
    ) -> Result<(Outcome, Result<f64, String>), String> {
        match Calls::begin([self.server.pid()?, self.client.pid()?], dir).await {
            Ok(calls) => {
                let outcome = self.sample(contenders, work).await?;
                Ok((outcome, calls.end().await))
            }
            Err(why) => Ok((Outcome::default(), Err(why))),
        }
    }

    /// The process ids of both.
    pub(crate) fn pids(&self) -> Result<[u32; 2], String> {
        Ok([self.server.pid()?, self.client.pid()?])
    }

    /// Takes one sample; returns what the connecting end measured, or the listening one where that is who measures.
    pub(crate) async fn sample(&mut self, contenders: &[Contender], work: Work) -> Result<Outcome, String> {
        self.server.say(&Request::Serve { contenders: contenders.to_vec(), work }).await?;
        let addresses = match self.server.reply().await.map_err(|why| format!("server: {why}"))? {
            Reply::Listening { addresses } => addresses,
            other => return Err(format!("server: not an answer to that: {other:?}")),
        };
        self.client.say(&Request::Run { contenders: contenders.to_vec(), addresses, work }).await?;

        let (mut server, mut client) = (None, None);
        let Self { server: serving, client: running } = self;
        tokio::select! {
            outcome = serving.done() => server = Some(outcome),
            outcome = running.done() => client = Some(outcome),
        }
        // Where one end failed the other may never finish, but it often knows more: it is asked, and not for long.
        let failed = matches!((&server, &client), (Some(Err(_)), _) | (_, Some(Err(_))));
        let patience = if failed { SECOND_OPINION } else { PATIENCE };
        let waits = || Err("still waiting".to_owned());
        let server = match server {
            Some(outcome) => outcome,
            None => timeout(patience, serving.done()).await.unwrap_or_else(|_| waits()),
        };
        let client = match client {
            Some(outcome) => outcome,
            None => timeout(patience, running.done()).await.unwrap_or_else(|_| waits()),
        };
        match (server, client) {
            (Ok(server), Ok(client)) if server.bytes != client.bytes => {
                Err(format!("the client sent {} bytes and the server received {}", client.bytes, server.bytes))
            }
            (Ok(server), Ok(client)) => {
                let (cpu, sleeps) = (server.cpu + client.cpu, server.sleeps + client.sleeps);
                Ok(Outcome { cpu, sleeps, ..if client.values.is_empty() { server } else { client } })
            }
            (Err(server), Err(client)) => Err(format!("server: {server}; client: {client}")),
            (Err(why), _) => Err(format!("server: {why}")),
            (_, Err(why)) => Err(format!("client: {why}")),
        }
    }
}

/// A process that holds a bridge, and the pairs attached to it so far.
pub(crate) struct Bridge {
    holder: Worker,
    ports: u32,
}

impl Bridge {
    /// Makes the bridge, in a network namespace of its own.
    pub(crate) async fn start(template: &Start) -> Result<Self, String> {
        let start = Start { namespace: Namespace::Bridge, cpus: vec![], ..template.clone() };
        Ok(Self { holder: Worker::start(&start, None).await?, ports: 0 })
    }

    /// A worker in a network namespace of its own that is attached to the bridge.
    pub(crate) async fn attached(&mut self, template: &Start) -> Result<Worker, String> {
        self.ports += 1;
        let ip = crate::netns::address(self.ports).ok_or("no address is left on the bridge")?;
        let start = Start {
            namespace: Namespace::Attached { bridge: self.holder.pid()? },
            place: Place { ip, ..template.place.clone() },
            ..template.clone()
        };
        let mut worker = Worker::start(&start, None).await?;
        self.holder.ask(&Request::Attach { pid: worker.pid()?, port: self.ports }).await?;
        worker.ask(&Request::Address).await?;
        Ok(worker)
    }
}
