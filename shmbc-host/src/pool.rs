//! Fresh sealed blocks: a stock kept ready, and used ones taken back. A block is used once; nobody may read yesterday's
//! bytes.
//!
//! The hub takes and returns blocks under its lock, so neither waits: making the stock and punching used blocks is the
//! keeper's, a task of its own whose system calls run on a thread that may wait.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::resource::{Resource, getrlimit};
use shmbc::block::Block;
use shmbc::layout::Sizes;
use tokio::sync::{Notify, mpsc};
use tracing::warn;

/// Whether touching a page of a block can fail, which is SIGBUS to whoever touches it. A memfd's pages are accounted for when they are
/// made, not before; with `vm.overcommit_memory=2` the kernel refuses that at its limit (`proc_sys_vm(5)`), and an end can always
/// punch a hole where a page was. In the other modes it never refuses a single page.
pub(crate) fn touching_can_fail() -> bool {
    let mode = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    !matches!(mode.trim(), "0" | "1")
}

/// The pool.
#[derive(Debug)]
pub(crate) struct Pool {
    sizes: Sizes,
    target: usize,
    stock: Mutex<Vec<Block>>,
    low: Notify,
    used: mpsc::UnboundedSender<Arc<Block>>,
    out: AtomicUsize,
    out_bytes: AtomicU64,
}

impl Pool {
    /// An empty pool, and what its keeper needs. Unbounded, but for the number of blocks that are out.
    ///
    /// The stock never takes more than a quarter of the descriptors that the service may have.
    pub(crate) fn new(sizes: Sizes, target: usize) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<Block>>) {
        let (used, taken_back) = mpsc::unbounded_channel();
        let affordable = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft / 4);
        let target = target.min(usize::try_from(affordable).unwrap_or(usize::MAX));
        let (out, out_bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        let pool = Self { sizes, target, stock: Mutex::default(), low: Notify::new(), used, out, out_bytes };
        (Arc::new(pool), taken_back)
    }

    /// A fresh block.
    ///
    /// # Errors
    ///
    /// Those of [`Block::create`], when the stock is empty and none can be made.
    pub(crate) fn take(&self) -> io::Result<Arc<Block>> {
        let ready = self.stock().pop();
        self.low.notify_one();
        Ok(self.adopt(ready.map_or_else(|| Block::create(self.sizes), Ok)?))
    }

    /// A block that was made elsewhere is out, too.
    pub(crate) fn adopt(&self, block: impl Into<Arc<Block>>) -> Arc<Block> {
        let block = block.into();
        self.out.fetch_add(1, Ordering::Relaxed);
        self.out_bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
        block
    }

    fn back(&self, block: &Block) {
        self.out_bytes.fetch_sub(block.len() as u64, Ordering::Relaxed);
        self.out.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes the memory of a block back, whoever still maps it.
    pub(crate) fn reclaim(&self, block: Arc<Block>) {
        if let Err(refused) = self.used.send(block) {
            // The keeper has stopped: the service is ending.
            self.punch(&refused.0);
        }
    }

    /// Lets go of a block whose ends may still use it.
    pub(crate) fn let_go(&self, block: Arc<Block>) {
        self.back(&block);
    }

    /// Blocks that are with connections, or not yet taken back.
    pub(crate) fn out(&self) -> usize {
        self.out.load(Ordering::Relaxed)
    }

    /// Size of those blocks, touched or not.
    pub(crate) fn out_bytes(&self) -> u64 {
        self.out_bytes.load(Ordering::Relaxed)
    }

    /// Keeps the stock up and takes used blocks back, until dropped.
    pub(crate) async fn keep(self: Arc<Self>, taken_back: &mut mpsc::UnboundedReceiver<Arc<Block>>) {
        let mut failing = false;
        loop {
            tokio::select! {
                Some(block) = taken_back.recv() => {
                    let mut used = vec![block];
                    while let Ok(block) = taken_back.try_recv() {
                        used.push(block);
                    }
                    let pool = Arc::clone(&self);
                    let _ = tokio::task::spawn_blocking(move || used.iter().for_each(|b| pool.punch(b))).await;
                }
                () = self.low.notified() => {
                    let pool = Arc::clone(&self);
                    let filled = tokio::task::spawn_blocking(move || pool.fill()).await;
                    if let Ok(result) = filled {
                        if let (Err(error), false) = (&result, failing) {
                            warn!(%error, "no more blocks can be made; connections stay on TCP until some are given back");
                        }
                        failing = result.is_err();
                    }
                }
            }
        }
    }

    fn punch(&self, block: &Block) {
        match block.reclaim() {
            // A sealed block on huge pages cannot be punched: they are free when both ends have unmapped it.
            Err(error) if !block.is_huge() => {
                warn!(%error, "a block's memory could not be taken back; the kernel frees it with its last mapping");
            }
            _ => {}
        }
        self.back(block);
    }

    /// Makes the stock full.
    ///
    /// # Errors
    ///
    /// Those of [`Block::create`].
    pub(crate) fn fill(&self) -> io::Result<()> {
        while self.stock().len() < self.target {
            let block = Block::create(self.sizes)?;
            self.stock().push(block);
        }
        Ok(())
    }

    fn stock(&self) -> std::sync::MutexGuard<'_, Vec<Block>> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
