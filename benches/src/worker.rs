//! One end of a contender: a process that does what it is told, one sample after the other.
//!
//! The main loop is a blocking read of standard input; the runtime is driven only while a sample runs, so that an idle
//! worker uses no CPU. It ends when its standard input does, or when the run that started it is gone.

use std::io::{self, BufRead, Write};
use std::sync::Arc;

use nix::sys::prctl;
use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;
use tokio::runtime;

use crate::measure;
use crate::names::Runtime;
use crate::protocol::{Namespace, Outcome, Place, Reply, Request, Start};
use crate::{netns, placement};

/// The whole life of a worker.
pub(crate) fn run() -> Result<(), String> {
    let mut lines = io::stdin().lock().lines();
    let Some(first) = lines.next() else { return Ok(()) };
    let first = first.map_err(|e| format!("standard input: {e}"))?;
    let start: Start = serde_json::from_str(&first).map_err(|e| format!("a worker is started by `compare`: {e}"))?;
    let runtime = match set_up(&start) {
        Ok(runtime) => runtime,
        Err(why) => return say(&Reply::Failed { why }).map_err(|e| e.to_string()),
    };
    say(&Reply::Started).map_err(|e| e.to_string())?;

    let place = Arc::new(start.place);
    for line in lines {
        let line = line.map_err(|e| format!("standard input: {e}"))?;
        let request = serde_json::from_str(&line).map_err(|e| format!("not a request: {e}"))?;
        let reply = match answer(&runtime, start.root, &place, request) {
            Ok(reply) => reply,
            Err(why) => Reply::Failed { why },
        };
        say(&reply).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Namespace and CPUs first, for both want a process with one thread; then the runtime.
fn set_up(start: &Start) -> Result<runtime::Runtime, String> {
    match start.namespace {
        Namespace::Inherited => {}
        Namespace::Bridge => netns::hold_bridge()?,
        Namespace::Attached { bridge } => netns::enter_new(bridge)?,
    }
    placement::pin(&start.cpus).map_err(|e| format!("cannot pin to CPUs {:?}: {e}", start.cpus))?;
    // Not left behind, even if the run is killed in the middle of a sample.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("prctl: {e}"))?;
    raise_descriptors();
    let mut builder = match start.runtime {
        Runtime::Current => runtime::Builder::new_current_thread(),
        Runtime::Multi => runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build().map_err(|e| format!("cannot start a runtime: {e}"))
}

/// As many descriptors as `idle` needs, where this process has the right to; else as many as it may have.
pub(crate) fn raise_descriptors() {
    const MANY: u64 = 100_000;
    if setrlimit(Resource::RLIMIT_NOFILE, MANY, MANY).is_err()
        && let Ok((_, hard)) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE)
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn answer(runtime: &runtime::Runtime, root: bool, place: &Arc<Place>, request: Request) -> Result<Reply, String> {
    let future = match request {
        Request::Attach { pid, port } => return netns::attach(pid, port).map(|()| Reply::Started),
        Request::Address => return netns::take_address(place.ip).map(|()| Reply::Started),
        Request::Serve { contenders, work } => measure::serve(contenders, work, Arc::clone(place), announce),
        Request::Run { contenders, addresses, work } => measure::run(contenders, addresses, work, Arc::clone(place)),
    };
    let before = usage();
    let outcome: io::Result<Outcome> = if root {
        runtime.block_on(future)
    } else {
        // As in a program: servers and clients are spawned tasks, and waking one costs what it costs there.
        runtime.block_on(async { runtime.spawn(future).await.map_err(io::Error::other)? })
    };
    let after = usage();
    let outcome = outcome.map(|outcome| Outcome { cpu: after.0 - before.0, sleeps: after.1 - before.1, ..outcome });
    outcome.map(Reply::Done).map_err(|e| e.to_string())
}

/// CPU time of this process so far, ns, and how often its threads have gone to sleep.
fn usage() -> (u64, u64) {
    getrusage(UsageWho::RUSAGE_SELF).map_or((0, 0), |usage| {
        let time = (usage.user_time() + usage.system_time()).num_microseconds();
        (time as u64 * 1000, usage.voluntary_context_switches() as u64)
    })
}

fn announce(addresses: Vec<String>) -> io::Result<()> {
    say(&Reply::Listening { addresses })
}

fn say(reply: &Reply) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, reply)?;
    out.write_all(b"\n")?;
    out.flush()
}
