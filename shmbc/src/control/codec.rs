//! Bytes to messages and back. Total: every byte string is either one message that keeps all limits, or an error.
//!
//! A frame is one version byte and the message in postcard's encoding, nothing after it.

use serde::{Serialize, de::DeserializeOwned};

use super::message::{MAX_LABELS, MAX_LOCAL_ENTRIES, MAX_REASONS, MAX_ROWS, MAX_TEXT, ToClient, ToHost};

/// Largest frame, in bytes. The largest honest message is a grant with [`MAX_LABELS`] labels of [`MAX_TEXT`] bytes each
/// way: 16 KiB and a little.
pub const MAX_FRAME: usize = 20 * 1024;

/// First byte of every frame. Changes only if the encoding itself does; what may be said is versioned by
/// [`PROTOCOL`](super::message::PROTOCOL).
const FRAME_VERSION: u8 = 1;

/// A frame that is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Longer than [`MAX_FRAME`].
    #[error("frame of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    /// Not even a version byte, or another version.
    #[error("frame does not begin with version byte {FRAME_VERSION}")]
    Version,
    /// The bytes are no message of this protocol.
    #[error("frame is no message of this protocol: {0}")]
    Malformed(postcard::Error),
    /// Bytes follow the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// A list or text is longer than its limit.
    #[error("{what} exceeds its limit of {limit}")]
    Limit {
        /// What is too long.
        what: &'static str,
        /// How long it may be.
        limit: usize,
    },
}

/// A message that can be put into a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// Checks the limits that the types cannot express.
    ///
    /// # Errors
    ///
    /// [`CodecError::Limit`] names the first one that is exceeded.
    fn check(&self) -> Result<(), CodecError>;
}

/// The frame of `message`.
///
/// # Errors
///
/// When the message breaks one of its limits; the sender made a mistake.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, CodecError> {
    message.check()?;
    let frame = postcard::to_extend(message, vec![FRAME_VERSION]).map_err(CodecError::Malformed)?;
    if frame.len() > MAX_FRAME {
        return Err(CodecError::TooLong(frame.len()));
    }
    Ok(frame)
}

/// The message in `frame`.
///
/// # Errors
///
/// When `frame` is anything but exactly one message that keeps its limits.
pub fn decode<M: Message>(frame: &[u8]) -> Result<M, CodecError> {
    if frame.len() > MAX_FRAME {
        return Err(CodecError::TooLong(frame.len()));
    }
    let Some((&FRAME_VERSION, body)) = frame.split_first() else {
        return Err(CodecError::Version);
    };
    let (message, rest) = postcard::take_from_bytes::<M>(body).map_err(CodecError::Malformed)?;
    if !rest.is_empty() {
        return Err(CodecError::Trailing(rest.len()));
    }
    message.check()?;
    Ok(message)
}

fn limit(what: &'static str, len: usize, limit: usize) -> Result<(), CodecError> {
    if len > limit { Err(CodecError::Limit { what, limit }) } else { Ok(()) }
}

impl Message for ToHost {
    fn check(&self) -> Result<(), CodecError> {
        Ok(())
    }
}

impl Message for ToClient {
    fn check(&self) -> Result<(), CodecError> {
        match self {
            Self::Welcome { you: identity, .. } => check_identity(identity),
            Self::Grant(grant) => check_identity(&grant.peer),
            Self::Locality { entries, .. } => {
                limit("locality entries", entries.len(), MAX_LOCAL_ENTRIES)?;
                for name in entries.iter().filter_map(|e| e.container.as_ref()) {
                    limit("container id", name.id.len(), MAX_TEXT)?;
                    limit("container name", name.name.len(), MAX_TEXT)?;
                }
                Ok(())
            }
            Self::Connections { rows, .. } => limit("connection rows", rows.len(), MAX_ROWS),
            Self::Containers { rows, .. } => limit("container rows", rows.len(), MAX_ROWS),
            Self::Status(status) => {
                limit("reasons", status.refusals.len(), MAX_REASONS)?;
                limit("version", status.version.len(), MAX_TEXT)?;
                status.refusals.iter().try_for_each(|(name, _)| limit("reason", name.len(), MAX_TEXT))
            }
            Self::Sealed(_) | Self::Go(_) | Self::Refused(..) | Self::Forbidden { .. } => Ok(()),
        }
    }
}

fn check_identity(identity: &super::message::Identity) -> Result<(), CodecError> {
    let Some(container) = &identity.container else {
        return Ok(());
    };
    limit("container id", container.id.len(), MAX_TEXT)?;
    limit("container name", container.name.len(), MAX_TEXT)?;
    limit("labels", container.labels.len(), MAX_LABELS)?;
    for (name, value) in &container.labels {
        limit("label name", name.len(), MAX_TEXT)?;
        limit("label value", value.len(), MAX_TEXT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::message::*;
    use super::*;
    use proptest::prelude::*;

    fn grant_with_labels(n: usize, len: usize) -> ToClient {
        let labels = (0..n).map(|i| (format!("{i:0len$}"), "v".repeat(len))).collect();
        ToClient::Grant(Grant {
            id: OfferId(7),
            end: End::B,
            capacity: [4096, 4096],
            send_token: crate::link::SwitchToken::from_bytes([1; 16]),
            receive_token: crate::link::SwitchToken::from_bytes([2; 16]),
            pages: Pages::Hugetlb,
            peer: Identity {
                container: Some(ContainerIdentity { id: "a".repeat(64), name: "n".repeat(MAX_TEXT), labels }),
                pid: 1,
                uid: 2,
                gid: 3,
            },
        })
    }

    #[test]
    fn largest_honest_message_when_encoded_fits_a_frame() {
        let grant = grant_with_labels(MAX_LABELS, MAX_TEXT);
        let frame = encode(&grant).unwrap();
        assert_eq!(decode::<ToClient>(&frame).unwrap(), grant);
    }

    #[test]
    fn message_when_over_a_limit_is_refused_on_both_sides() {
        for grant in [grant_with_labels(MAX_LABELS + 1, 8), grant_with_labels(1, MAX_TEXT + 1)] {
            assert!(matches!(encode(&grant), Err(CodecError::Limit { .. })));
            let frame = postcard::to_extend(&grant, vec![FRAME_VERSION]).unwrap();
            assert!(matches!(decode::<ToClient>(&frame), Err(CodecError::Limit { .. })));
        }
    }

    #[test]
    fn grant_when_of_pages_that_nobody_knows_is_refused() {
        let mut frame = encode(&grant_with_labels(0, 0)).unwrap();
        // Behind the second token, of sixteen times 2, stands the kind of pages, which is 2.
        let token = frame.windows(17).position(|bytes| bytes == [2; 17]).unwrap();
        for known in 0..3 {
            frame[token + 16] = known;
            assert!(decode::<ToClient>(&frame).is_ok());
        }
        frame[token + 16] = 3;
        assert!(decode::<ToClient>(&frame).is_err());
    }

    #[test]
    fn frame_when_cut_prolonged_or_of_another_version_is_refused() {
        let frame = encode(&ToHost::Ready(OfferId(300))).unwrap();
        for cut in 0..frame.len() {
            assert!(decode::<ToHost>(&frame[..cut]).is_err(), "{cut} bytes");
        }
        let mut longer = frame.clone();
        longer.push(0);
        assert_eq!(decode::<ToHost>(&longer), Err(CodecError::Trailing(1)));
        let mut other = frame;
        other[0] = 2;
        assert_eq!(decode::<ToHost>(&other), Err(CodecError::Version));
        assert_eq!(decode::<ToHost>(&vec![1; MAX_FRAME + 1]), Err(CodecError::TooLong(MAX_FRAME + 1)));
    }

    proptest! {
        #[test]
        fn garbage_when_decoded_never_panics_and_what_is_accepted_reencodes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut frame = vec![FRAME_VERSION];
            frame.extend(bytes);
            if let Ok(message) = decode::<ToHost>(&frame) {
                prop_assert_eq!(decode::<ToHost>(&encode(&message).unwrap()).unwrap(), message);
            }
            if let Ok(message) = decode::<ToClient>(&frame) {
                prop_assert_eq!(decode::<ToClient>(&encode(&message).unwrap()).unwrap(), message);
            }
        }
    }
}
