//! What the small examples share: their roles, and a host service for a try. Nothing in here belongs to a real program.
//!
//! Started without arguments an example is server and client at once, with a host service of its own, and ends by itself.
//! With `server ADDRESS` or `client ADDRESS` it is one of the two, and uses the machine's host service, or whatever
//! `SHMBC_HOST` says.

use std::error::Error;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use shmbc_host::{Docker, Host, HostConfig};
use shmbc_tokio::{Config, Path, Reason, ShmListener};

/// Whatever goes wrong in an example.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Runs the roles that the command line asks for.
///
/// # Errors
///
/// Those of the roles, and of a command line that asks for something else.
pub async fn run<S, C>(server: impl FnOnce(ShmListener) -> S, client: impl FnOnce(String) -> C) -> Result<(), Failure>
where
    S: Future<Output = Result<(), Failure>>,
    C: Future<Output = Result<(), Failure>>,
{
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            let host = host_for_a_try().await?;
            let listener = ShmListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?.to_string();
            tokio::select! {
                served = server(listener) => served?,
                done = client(address) => done?,
            }
            if let Some((host, _directory)) = host {
                host.shutdown().await;
            }
            Ok(())
        }
        ["server", address] => {
            let listener = ShmListener::bind(address).await?;
            println!("server: listening on {}", listener.local_addr()?);
            server(listener).await
        }
        ["client", address] => client(address.to_owned()).await,
        _ => Err("say nothing, or `server ADDRESS`, or `client ADDRESS`".into()),
    }
}

/// [`run`] for programs without a runtime: the server has a thread of its own.
///
/// # Errors
///
/// Those of the roles, and of a command line that asks for something else.
pub fn run_threads(
    server: impl FnOnce(TcpListener) -> Result<(), Failure> + Send + 'static,
    client: impl FnOnce(SocketAddr) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            // The host service is written with tokio, whatever its clients are.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let host = runtime.block_on(host_for_a_try())?;
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            std::thread::spawn(move || server(listener));
            client(address)?;
            if let Some((host, _directory)) = host {
                runtime.block_on(host.shutdown());
            }
            Ok(())
        }
        ["server", address] => {
            let listener = TcpListener::bind(address)?;
            println!("server: listening on {}", listener.local_addr()?);
            server(listener)
        }
        ["client", address] => {
            client(address.to_socket_addrs()?.next().ok_or_else(|| format!("{address} has no address"))?)
        }
        _ => Err("say nothing, or `server ADDRESS`, or `client ADDRESS`".into()),
    }
}

/// A host service in this process, unless the environment names one or says `off`.
async fn host_for_a_try() -> Result<Option<(Host, tempfile::TempDir)>, Failure> {
    if std::env::var_os("SHMBC_HOST").is_some() {
        return Ok(None);
    }
    let directory = tempfile::tempdir()?;
    let mut config = HostConfig::at(directory.path().join("host.sock"));
    config.docker = Docker::Off;
    let host = Host::start(config).await?;
    Config::from_env()?.host(host.socket()).install()?;
    Ok(Some((host, directory)))
}

/// Whether a connection has come to the path on which it will stay.
pub fn is_settled(path: &Path) -> bool {
    *path != Path::Tcp(Reason::NotYet)
}
