//! What may be accelerated. A proven TCP connection is the permission, for the network itself let it be made;
//! labels can only forbid more. Every refusal is a sentence for the people who run the containers.

use crate::table::connections::End;
use crate::table::containers::{Containers, cut};

/// `io.shmbc.enable=false` on a container keeps all its connections on TCP.
const ENABLE: &str = "io.shmbc.enable";

/// Whether the connection between these ends may be upgraded, or the sentence that says why not.
pub(crate) fn check(ends: [&End; 2], containers: &Containers) -> Result<(), String> {
    for end in ends {
        let Some(container) = end.client.container.as_deref().and_then(|id| containers.get(id)) else { continue };
        if let Some(value) = container.labels.get(ENABLE)
            && ["false", "0", "no", "off"].iter().any(|no| value.trim().eq_ignore_ascii_case(no))
        {
            return Err(format!("container {} has the label {ENABLE}={}", cut(&container.name), cut(value)));
        }
    }
    Ok(())
}
