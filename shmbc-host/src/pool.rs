//! Fresh sealed blocks: a stock kept ready, and used ones taken back. A block is used once; nobody may read yesterday's
//! bytes.
//!
//! The hub takes and returns blocks under its lock, so neither waits: making the stock and punching used blocks is the
//! keeper's, a task of its own whose system calls run on a thread that may wait.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shmbc::block::Block;
use shmbc::layout::Sizes;
use tokio::sync::{Notify, mpsc};
use tracing::warn;

/// Where Linux says whether shared memory may have huge pages, the chosen word in brackets.
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// Says once when huge pages are wished and the kernel has none for shared memory: blocks are then on ordinary ones.
pub(crate) fn tell_whether_huge_pages_are_there() {
    let setting = std::fs::read_to_string(HUGE_PAGES).unwrap_or_default();
    if !["[always]", "[within_size]", "[advise]", "[force]"].iter().any(|word| setting.contains(word)) {
        let setting = setting.trim();
        warn!(setting, "no huge pages for shared memory: write \"advise\" to {HUGE_PAGES}; ordinary ones are used");
    }
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
}

impl Pool {
    /// An empty pool, and what its keeper needs. Unbounded, but for the number of blocks that are out.
    pub(crate) fn new(sizes: Sizes, target: usize) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<Block>>) {
        let (used, taken_back) = mpsc::unbounded_channel();
        let pool = Self { sizes, target, stock: Mutex::default(), low: Notify::new(), used, out: AtomicUsize::new(0) };
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
        let block = ready.map_or_else(|| Block::create(self.sizes), Ok)?;
        self.out.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(block))
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
        drop(block);
        self.out.fetch_sub(1, Ordering::Relaxed);
    }

    /// Blocks that are with connections, or not yet taken back.
    pub(crate) fn out(&self) -> usize {
        self.out.load(Ordering::Relaxed)
    }

    /// Keeps the stock up and takes used blocks back, until dropped.
    pub(crate) async fn keep(self: Arc<Self>, mut taken_back: mpsc::UnboundedReceiver<Arc<Block>>) {
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
        if let Err(error) = block.reclaim() {
            warn!(%error, "a block's memory could not be taken back; the kernel frees it with its last mapping");
        }
        self.out.fetch_sub(1, Ordering::Relaxed);
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
