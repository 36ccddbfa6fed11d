//! Makes blocks on pages of the hugetlb pool, one after the other: zeroing the 10 MiB of one takes 0.3 to 24 ms, which nobody
//! should do under the hub's lock, nor on as many processors as a client has connections.
//!
//! The hub orders one where it would take an ordinary one from the pool, and has it delivered. Where that cannot be, by want of
//! pages or of patience, the connection is on ordinary pages.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shmbc::block::Block;
use shmbc::layout::Sizes;
use shmbc::sys::Node;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::hub::Hub;
use crate::table::connections::{ConnectionId, EndKey};

/// Orders that wait. The last waits for as many blocks: 5 to 400 ms, of the seconds that both ends have to answer.
const ORDERS: usize = 16;

/// A block for a connection.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) id: ConnectionId,
    pub(crate) ends: [EndKey; 2],
    /// Where each ring is to be, A to B first.
    pub(crate) nodes: [Option<Node>; 2],
    pub(crate) sizes: Sizes,
}

/// Where blocks are ordered.
#[derive(Debug)]
pub(crate) struct Maker {
    orders: mpsc::Sender<Order>,
    fallbacks: AtomicU64,
}

impl Maker {
    /// And where [`keep`] takes the orders from.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, taken) = mpsc::channel(ORDERS);
        (Self { orders, fallbacks: AtomicU64::new(0) }, taken)
    }

    /// Orders a block, or says that it would take too long.
    pub(crate) fn order(&self, order: Order) -> bool {
        let taken = self.orders.try_send(order).is_ok();
        if !taken {
            self.fell_back(&io::Error::other("too many blocks are ordered"));
        }
        taken
    }

    /// Connections that are on ordinary pages instead.
    pub(crate) fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    fn fell_back(&self, error: &io::Error) {
        if self.fallbacks.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!(%error, "no huge pages for a connection, which is on ordinary ones; said once, and counted");
        } else {
            debug!(%error, "no huge pages for a connection");
        }
    }
}

/// Makes what is ordered. Never returns.
pub(crate) async fn keep(hub: Arc<Hub>, orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if !hub.wants(&order) {
            continue;
        }
        let (sizes, nodes) = (order.sizes, order.nodes);
        let made = tokio::task::spawn_blocking(move || Block::create_huge(sizes, nodes)).await;
        let block = match made.map_err(io::Error::other).and_then(|made| made) {
            Ok(block) => Some(block),
            Err(error) => {
                hub.maker().inspect(|maker| maker.fell_back(&error));
                None
            }
        };
        hub.delivered(order, block);
    }
}
