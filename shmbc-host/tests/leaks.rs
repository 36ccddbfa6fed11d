//! Whatever way a client leaves, at whatever step, nothing of it is left in the service: counted, descriptors included. One
//! test, so that nothing else in this process opens or closes descriptors meanwhile.

mod common;

use common::*;
use shmbc::control::message::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Greeted,
    Offered,
    Granted,
    Ready,
    Established,
}

#[derive(Clone, Copy, Debug)]
enum Leave {
    Close,
    Decline,
    EndSession,
    Garbage,
}

async fn play(service: &Service, step: Step, leave: Leave) {
    let (a, b) = (service.client().await, service.client().await);
    let (left, right) = tcp();
    if step != Step::Greeted {
        a.offer(1, &left);
        a.settled().await;
        assert_eq!(service.host.counts().offers, 1);
    }
    if !matches!(step, Step::Greeted | Step::Offered) {
        b.offer(2, &right);
        a.granted().await;
        b.granted().await;
        assert_eq!((service.host.counts().granted, service.host.counts().blocks), (1, 1));
    }
    if matches!(step, Step::Ready | Step::Established) {
        a.say(&ToHost::Ready(OfferId(1)));
    }
    if step == Step::Established {
        b.say(&ToHost::Ready(OfferId(2)));
        a.told_to_go(1).await;
        b.told_to_go(2).await;
        assert_eq!(service.host.counts().established, 1);
    }
    let expected = match leave {
        Leave::Decline => Refusal::Declined(Decline::Unsound),
        _ => Refusal::PeerClosed,
    };
    let a = match leave {
        Leave::Close => {
            a.say(&ToHost::Close(OfferId(1)));
            Some(a)
        }
        Leave::Decline => {
            a.say(&ToHost::Decline(OfferId(1), Decline::Unsound));
            Some(a)
        }
        Leave::EndSession => {
            drop(a);
            None
        }
        Leave::Garbage => {
            let _ = rustix::net::send(a.as_fd(), b"garbage", rustix::net::SendFlags::NOSIGNAL);
            a.ended().await;
            Some(a)
        }
    };
    match step {
        Step::Granted | Step::Ready => assert_eq!(b.refused(2).await, expected),
        Step::Established => {
            // The other end may still be reading what is in the block.
            b.settled().await;
            assert_eq!(service.host.counts().blocks, 1);
            b.say(&ToHost::Close(OfferId(2)));
        }
        Step::Greeted | Step::Offered => {}
    }
    service.until_empty().await;
    drop((a, b));
    service.until("the sessions end", |counts| counts.sessions == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_when_it_leaves_in_any_way_at_any_step_leaves_nothing_behind() {
    let service = start().await;
    let steps = [Step::Greeted, Step::Offered, Step::Granted, Step::Ready, Step::Established];
    let ways = [Leave::Close, Leave::Decline, Leave::EndSession, Leave::Garbage];
    // The stock is full from the start.
    let baseline = service.host.counts().fds;
    for step in steps {
        for leave in ways {
            for _ in 0..3 {
                play(&service, step, leave).await;
            }
            // The stock is filled up in the background.
            service.until(&format!("{step:?}, {leave:?}: all is closed"), |counts| counts.fds == baseline).await;
        }
    }
    assert_eq!(service.host.counts().sessions, 0);
    service.host.shutdown().await;
}
