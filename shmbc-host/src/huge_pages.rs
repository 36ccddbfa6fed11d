//! Which huge pages connections are on, as the service is told; and whether this machine has such.

use std::str::FromStr;

use shmbc::control::message::Pages;
use tracing::warn;

/// Where Linux says whether shared memory may have transparent huge pages, the chosen word in brackets.
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// Where it says how many pages its pool has, and by how many it may grow by itself.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const POOL_MAY_GROW: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";

/// Which huge pages connections are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// None.
    #[default]
    Off,
    /// Both ends ask for transparent ones. Each connection then takes at least one of 2 MiB for each direction that has moved a byte.
    Transparent,
    /// Pages of 2 MiB of the kernel's hugetlb pool, all of them from the start; ordinary ones while the pool has too few.
    ///
    /// The service cannot take them back: a client that keeps its mapping keeps its pages.
    Hugetlb,
}

impl HugePages {
    /// What is said about a block that is not of the hugetlb pool.
    pub(crate) const fn of_ordinary_blocks(self) -> Pages {
        match self {
            Self::Transparent => Pages::Transparent,
            Self::Off | Self::Hugetlb => Pages::Ordinary,
        }
    }

    /// Says once when huge pages are wished and the kernel has none: connections are then on ordinary ones.
    pub(crate) fn tell_whether_there_are_some(self) {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        match self {
            Self::Off => {}
            Self::Transparent => {
                let setting = read(TRANSPARENT);
                if !["[always]", "[within_size]", "[advise]", "[force]"].iter().any(|word| setting.contains(word)) {
                    warn!(
                        setting,
                        "no huge pages for shared memory: write \"advise\" to {TRANSPARENT}; ordinary ones are used"
                    );
                }
            }
            Self::Hugetlb => {
                if [POOL, POOL_MAY_GROW].iter().all(|path| read(path).parse().unwrap_or(0_u64) == 0) {
                    warn!("the pool of huge pages is empty: write a number to {POOL}; ordinary ones are used");
                }
            }
        }
    }
}

impl FromStr for HugePages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "transparent" => Ok(Self::Transparent),
            "hugetlb" => Ok(Self::Hugetlb),
            other => Err(format!("{other:?} is neither transparent, hugetlb nor off")),
        }
    }
}
