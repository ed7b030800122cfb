//! What a replica is now: the one that decides, or one that follows.

use std::time::Instant;

use tokio::sync::watch;

/// Where this replica stands; shared by a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The highest epoch that is known: what was decided in a lower one is dropped.
    pub epoch: u64,
    /// What it is.
    pub role: Role,
}

/// See [`Standing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It decides, but after this moment not, unless that was put off: then another may.
    Leading(Instant),
    /// It carries out what another decides.
    Following(Option<Leader>),
}

/// Who decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its name.
    pub name: String,
    /// Where its replica link is served: `10.0.0.7:15020`.
    pub address: String,
}

impl Default for Role {
    fn default() -> Self {
        Self::Following(None)
    }
}

impl Standing {
    /// Whether it decides at `now`.
    #[must_use]
    pub fn decides(&self, now: Instant) -> bool {
        matches!(self.role, Role::Leading(until) if now < until)
    }

    /// Who decides, if that is another one.
    #[must_use]
    pub fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Following(leader) => leader.as_ref(),
            Role::Leading(_) => None,
        }
    }
}

/// Where standings are read.
pub type Standings = watch::Receiver<Standing>;
