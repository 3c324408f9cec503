//! Carrying out what was written into the mount, and answering when it is done or refused.
//!
//! An errand may take as long as fetching a URL does, so it runs as a task that owns the reply. The kernel keeps the
//! root directory locked while it waits for a removal, and with it every name in there that it has not looked up yet:
//! a removal that takes longer is answered as done, and ends by itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wtfs_proto::id::InfoHash;

use crate::control::Control;
use crate::errno::FsError;
use crate::inbox::{Errand, Inbox};

/// How long a removal may keep the root directory waiting.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(500);

/// What users wrote, and who does what it asks for.
#[derive(Debug)]
pub(crate) struct Errands {
    pub(crate) inbox: Inbox,
    control: Arc<dyn Control>,
    runtime: Handle,
    closing: CancellationToken,
}

impl Errands {
    pub(crate) fn new(control: Arc<dyn Control>, runtime: Handle, closing: CancellationToken) -> Self {
        Self { inbox: Inbox::default(), control, runtime, closing }
    }

    /// Never waits. `answer` is called exactly once: here if there is nothing to do, else from a task.
    pub(crate) fn run(
        &self,
        errand: Option<Errand>,
        answer: impl FnOnce(Result<(), FsError>) + Send + 'static,
    ) {
        let Some(errand) = errand else { return answer(Ok(())) };
        let (control, closing) = (Arc::clone(&self.control), self.closing.clone());
        self.runtime.spawn(async move {
            let outcome = closing.run_until_cancelled_owned(carry_out(control.as_ref(), errand)).await;
            answer(outcome.unwrap_or(Err(FsError::Closing)));
        });
    }

    /// Never waits; as [`Errands::run`].
    pub(crate) fn remove(
        &self,
        torrent: InfoHash,
        answer: impl FnOnce(Result<(), FsError>) + Send + 'static,
    ) {
        let control = Arc::clone(&self.control);
        let removal = self.runtime.spawn(async move {
            let removed = control.remove_entry(torrent).await;
            removed.map_err(|reason| {
                tracing::warn!("{torrent} is not removed: {reason}");
                FsError::NotRemoved(reason)
            })
        });
        self.runtime.spawn(async move {
            match tokio::time::timeout(REMOVAL_PATIENCE, removal).await {
                Ok(Ok(outcome)) => answer(outcome),
                // Still at it, and on its own from here; or the runtime ends, and the mount with it.
                Err(_) | Ok(Err(_)) => answer(Ok(())),
            }
        });
    }
}

/// All of it, also after a part was refused; the first refusal is the answer.
async fn carry_out(control: &dyn Control, errand: Errand) -> Result<(), FsError> {
    let mut outcome = Ok(());
    match errand {
        Errand::Torrent(bytes) => {
            let added = control.add_torrent(bytes).await;
            outcome = added.map_err(|reason| refused(format!("the torrent file is not added: {reason}")));
        }
        Errand::Sources(lines) => {
            for line in lines {
                // A magnet may be long and hold a passkey.
                let shown: String = line.chars().take(60).filter(|c| !c.is_control()).collect();
                let added = control.add_source(line).await;
                let added = added.map_err(|reason| refused(format!("{shown}: not added: {reason}")));
                outcome = outcome.and(added);
            }
        }
    }
    outcome
}

/// Logged here, where all refusals of errands pass, so that each can be read in `.wtfs/log`.
fn refused(reason: String) -> FsError {
    tracing::warn!("{reason}");
    FsError::Refused(reason)
}
