//! The proof: a connection of this very process to itself, over loopback, that asks to go over to shared memory and moves bytes
//! there.

use std::time::{Duration, Instant};

use shmbc_tokio::{Config, Path, Reason, ShmListener, ShmStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Finding;

/// How long it may take. It takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);

const CHECK: &str = "upgrade";

/// Tries it through the service that `config` names.
pub(super) fn try_one(config: Config) -> Vec<Finding> {
    if let Err(error) = config.install() {
        return vec![Finding::note(CHECK, format!("not tried: {error}"))];
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Finding::problem(CHECK, format!("the runtime cannot be started: {error}"))],
    };
    match runtime.block_on(async { tokio::time::timeout(PATIENCE, upgrade()).await }) {
        Err(_) => vec![
            Finding::problem(CHECK, format!("not done within {} s", PATIENCE.as_secs()))
                .fix("look at the service's log, and whether the machine is overloaded"),
        ],
        Ok(Err(error)) => vec![
            Finding::problem(CHECK, format!("a connection over loopback failed: {error}"))
                .fix("bring the loopback interface up: ip link set lo up"),
        ],
        Ok(Ok((took, Path::SharedMemory, container))) => {
            let found = format!("a connection of its own went over to shared memory in {} us", took.as_micros());
            let who = match container {
                Some(name) if !name.is_empty() => {
                    Finding::ok("identity", format!("the service knows this as container {name}"))
                }
                Some(_) => Finding::note("identity", "the service knows this container by its id only")
                    .fix("let the service reach Docker's socket"),
                None => Finding::ok("identity", "the service knows this as a process outside of containers"),
            };
            vec![Finding::ok(CHECK, found), who]
        }
        Ok(Ok((_, Path::Tcp(reason), _))) => {
            let finding = Finding::problem(CHECK, format!("a connection of its own stays on TCP: {reason}"));
            let advice = match &reason {
                Reason::NotYet => Some("look at the service's log"),
                reason => reason.advice(),
            };
            vec![match advice {
                Some(advice) => finding.fix(advice),
                None => finding,
            }]
        }
    }
}

async fn upgrade() -> std::io::Result<(Duration, Path, Option<String>)> {
    let listener = ShmListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (connected, accepted) = tokio::join!(ShmStream::connect(address), listener.accept());
    let (mut one, (mut other, _)) = (connected?, accepted?);
    let began = Instant::now();
    // Their results are what the path says, too.
    let _ = tokio::join!(one.upgraded(), other.upgraded());
    let took = began.elapsed();
    let mut byte = [0];
    one.write_all(b"?").await?;
    other.read_exact(&mut byte).await?;
    let identity = one.peer_identity().and_then(|peer| peer.container.as_ref().map(|container| container.name.clone()));
    Ok((took, one.path(), identity))
}
