//! What of io_uring this system grants.

use io_uring::opcode;

use super::buffer_ring::BufferRing;
use super::setup::{self, SetupError};
use crate::engine::{EngineConfig, EngineProbe, Feature, FeatureKind};

/// The buffers of a default arena.
const BUFFERS: u32 = 256;

/// The flags that every ring is set up with; without one of them there is no ring.
const SETUP_FLAGS: [&str; 8] = [
    "IORING_SETUP_R_DISABLED",
    "IORING_SETUP_SINGLE_ISSUER",
    "IORING_SETUP_DEFER_TASKRUN",
    "IORING_SETUP_COOP_TASKRUN",
    "IORING_SETUP_TASKRUN_FLAG",
    "IORING_SETUP_SUBMIT_ALL",
    "IORING_SETUP_CQSIZE",
    "IORING_SETUP_CLAMP",
];

/// The operations that the engine submits.
const OPERATIONS: [(&str, u8); 9] = [
    ("IORING_OP_ACCEPT", opcode::Accept::CODE),
    ("IORING_OP_CONNECT", opcode::Connect::CODE),
    ("IORING_OP_RECV", opcode::Recv::CODE),
    ("IORING_OP_SEND", opcode::Send::CODE),
    ("IORING_OP_SENDMSG", opcode::SendMsg::CODE),
    ("IORING_OP_POLL_ADD", opcode::PollAdd::CODE),
    ("IORING_OP_READ", opcode::Read::CODE),
    ("IORING_OP_ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ("IORING_OP_CLOSE", opcode::Close::CODE),
];

/// Sets up a ring as a server would, asks for its operations, and takes it down.
pub(crate) fn probe() -> EngineProbe {
    let mut features = Vec::new();
    let refusal = features_of_ring(&mut features).err().map(|error| error.to_string());
    let missing = features.iter().find(|feature| feature.required && !feature.granted);
    let refusal = refusal.or_else(|| {
        let missing = missing?;
        Some(format!("this kernel's io_uring lacks {}: Linux 6.1 or later is required", missing.name))
    });
    EngineProbe { name: "uring", refusal, features }
}

fn features_of_ring(features: &mut Vec<Feature>) -> Result<(), SetupError> {
    let mut add = |kind, name, required, granted| features.push(Feature { name, kind, required, granted });
    let (submissions, completions) = (EngineConfig::SUBMISSION_ENTRIES, EngineConfig::COMPLETION_ENTRIES);
    let newest = setup::takes_no_sqarray();
    let ring = setup::build_ring(submissions, completions)?;
    for name in SETUP_FLAGS {
        add(FeatureKind::SetupFlag, name, true, true);
    }
    add(FeatureKind::SetupFlag, "IORING_SETUP_NO_SQARRAY", false, newest);
    let mut known = io_uring::Probe::new();
    ring.submitter().register_probe(&mut known).map_err(SetupError::Other)?;
    for (name, code) in OPERATIONS {
        add(FeatureKind::Operation, name, true, known.is_supported(code));
    }
    let buffers = BufferRing::register(&ring.submitter(), BUFFERS);
    add(FeatureKind::Registration, "IORING_REGISTER_PBUF_RING", true, buffers.is_ok());
    add(FeatureKind::Property, "IORING_FEAT_NO_IOWAIT", false, ring.params().is_feature_no_iowait());
    // The ring goes first: the kernel must not know the buffers any more when their memory is given back.
    drop(ring);
    buffers.map(drop).map_err(SetupError::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_agrees_with_an_engine_that_is_set_up() {
        let probe = probe();
        let ring = setup::build_ring(16, 16);
        assert_eq!(probe.refusal.is_none(), ring.is_ok(), "{probe:?}");
        if ring.is_ok() {
            assert!(probe.features.iter().all(|feature| feature.granted || !feature.required), "{probe:?}");
            let kinds = [FeatureKind::SetupFlag, FeatureKind::Operation, FeatureKind::Registration];
            assert!(kinds.iter().all(|kind| probe.features.iter().any(|feature| feature.kind == *kind)));
        } else {
            assert_eq!(probe.features, [], "nothing was granted");
        }
    }
}
