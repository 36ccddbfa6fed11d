//! The host service: whether it can be reached from here, and what it says of itself.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use shmbc::control::client::{AskError, Client};
use shmbc::control::message::Status;

use super::Finding;

/// Part of the service's descriptors that may be in use before it is told.
const MANY_DESCRIPTORS: f64 = 0.8;

/// What is found, and whether the service answers.
pub(super) fn look(path: &Path) -> (Vec<Finding>, bool) {
    let client = match Client::connect(path) {
        Ok(client) => client,
        Err(error) => return (vec![unreachable(path, &error)], false),
    };
    let mut findings = vec![Finding::ok("host service", format!("answers at {}", path.display()))];
    match client.status() {
        Ok(status) => findings.extend(about(&status)),
        Err(AskError::Forbidden(_)) => {
            let found = "tells only root and its own user outside of containers how it is";
            findings
                .push(Finding::note("service's state", found).fix("run `shmbc doctor` as root on the host for more"));
        }
        Err(error) => findings.push(Finding::warning("service's state", error.to_string())),
    }
    (findings, true)
}

/// Why nobody answers, by what is there in its place.
fn unreachable(path: &Path, error: &AskError) -> Finding {
    let problem = |found: String, fix: &str| Finding::problem("host service", found).fix(fix);
    let directory = path.parent().unwrap_or(path);
    let shown = path.display();
    match (error, std::fs::symlink_metadata(path)) {
        (AskError::Version(_), _) => problem(error.to_string(), "install the same release of both"),
        (AskError::Permission(_), _) => {
            let fix = "make the socket writable for everybody (SocketMode=0666), and its directory 0755";
            problem(format!("no permission to reach {shown}"), fix)
        }
        (_, Err(_)) if !directory.exists() => problem(
            format!("there is no {} here", directory.display()),
            "on the host: start the service (`shmbc-host run`); in a container: docker run -v /run/shmbc:/run/shmbc, or in \
             compose: volumes: [/run/shmbc:/run/shmbc]",
        ),
        (_, Err(_)) => problem(
            format!("{} is there, and no socket in it", directory.display()),
            "start the service on the host: shmbc-host run, or systemctl start shmbc-host",
        ),
        (_, Ok(file)) if !file.file_type().is_socket() => problem(
            format!("{shown} is no socket"),
            "remove it on the host; docker makes a directory of a mount whose source is not there: mount /run/shmbc itself",
        ),
        (AskError::NoHost(_), Ok(_)) => problem(
            format!("nobody listens at {shown} any more"),
            "start the service; if it runs, the container has an old socket mounted: mount the directory /run/shmbc, not the \
             socket in it",
        ),
        (other, Ok(_)) => problem(format!("{shown}: {other}"), "look at the service's log"),
    }
}

/// What the service says of itself.
fn about(status: &Status) -> Vec<Finding> {
    let up = crate::rows::age(status.up_ms);
    let found = format!(
        "version {}, up {up}: {} processes, {} connections in shared memory, {} upgrades so far",
        status.version, status.sessions, status.established, status.upgrades
    );
    let mut findings = vec![Finding::ok("service's state", found)];
    findings.push(match status.docker {
        true => Finding::ok("containers", format!("Docker tells of {}", status.containers)),
        false => Finding::note("containers", "Docker does not answer: containers are known by their ids only")
            .fix("if there is a Docker engine: mount /var/run/docker.sock read-only into the service's container, or --docker PATH"),
    });
    if status.fds as f64 > status.fd_limit as f64 * MANY_DESCRIPTORS {
        let found = format!("the service has {} of at most {} open", status.fds, status.fd_limit);
        findings.push(
            Finding::warning("service's fds", found).fix("LimitNOFILE=1048576 in its unit, or docker run --ulimit"),
        );
    }
    if status.panics > 0 {
        let found = format!("the service caught {} mistakes of its own", status.panics);
        findings.push(Finding::warning("service's state", found).fix("please report what its log says"));
    }
    findings.extend(status.refusals.iter().filter(|(_, n)| *n > 0).map(|(reason, n)| refused(reason, *n)));
    findings
}

/// What refusals of a kind mean, as the kinds that need their own text do not say.
fn refused(reason: &str, n: u64) -> Finding {
    let fix = match reason {
        "no-twin" => {
            "the other program does not speak SHMBC, or does not reach the service: swap its type, mount /run/shmbc"
        }
        "not-proven" => {
            "if all are refused: docker run --pid host --cap-add SYS_PTRACE for the service, or start it as root"
        }
        "ambiguous" => "give the networks different subnets: docker network create --subnet",
        "policy" => "`shmbc ss --state refused` names the label or rule",
        "quota" => "`shmbc ss --state refused` names the limit; raise it in /etc/shmbc/host.toml",
        "out-of-resources" => "LimitNOFILE and MemoryMax of the service's unit, or docker run --ulimit nofile=1048576",
        "declined" => "look at the programs' descriptor limits and memory: `shmbc ss --state refused`",
        "not-ready" => "a program was stopped or starved: look at its cgroup's cpu.stat",
        "tampered" => "do not trust one of the programs, and use the same release for both",
        "guarded" => "start the program as the user that it is to be: docker run --user, User= of its unit",
        "strict-account" => "set vm.overcommit_memory to 0 or 1 (sysctl)",
        "other-owner" => "the program is to make its sockets after it has become the user that it is to be",
        _ => "nothing: the connection or the service was about to end",
    };
    let verdict = match reason {
        "not-proven" | "ambiguous" | "quota" | "out-of-resources" | "tampered" => super::Verdict::Warning,
        _ => super::Verdict::Note,
    };
    Finding::new("refused so far", verdict, format!("{n} {reason}")).fix(fix)
}

#[cfg(test)]
mod tests {
    use shmbc::control::message::{Decline, Refusal};

    use super::*;

    #[test]
    fn refusals_when_counted_are_explained_each_of_them() {
        let all = [
            Refusal::NoTwin,
            Refusal::NotProven,
            Refusal::Ambiguous,
            Refusal::Policy(String::new()),
            Refusal::Quota(String::new()),
            Refusal::OutOfResources,
            Refusal::Declined(Decline::OutOfResources),
            Refusal::NotReady,
            Refusal::Tampered,
            Refusal::Guarded,
            Refusal::OtherOwner,
            Refusal::StrictAccount,
        ];
        for refusal in all {
            let finding = refused(refusal.name(), 3);
            assert!(!finding.fix.unwrap().starts_with("nothing"), "{}", refusal.name());
        }
        for refusal in [Refusal::PeerClosed, Refusal::Draining] {
            assert!(refused(refusal.name(), 1).fix.unwrap().starts_with("nothing"));
        }
    }
}
