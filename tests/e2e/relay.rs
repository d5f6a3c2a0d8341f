//! A community node lets nobody send to a topic who does not hold its key: not who never was in the group, and
//! not who was removed from it.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use kith_protocol::mailbox::{Frame, Refusal};
use tests::process::Community;
use tests::spoken::{Client, envelope, key};

#[tokio::test]
async fn what_a_removed_member_sends_to_the_new_topic_is_dropped() {
    let community = Community::start();
    // Eli held the key of the old topic; the removal moved the group to the new one.
    let (old, new) = (key(1), key(2));
    let mut ana = Client::connect(community.address()).await;
    assert!(matches!(ana.pins(&new, &new).await, Frame::Pinned { .. }));
    let said = envelope(&new, b"an evening");
    let stored = ana.asks(Frame::Put(said.as_bytes().to_vec())).await;
    assert!(matches!(stored, Frame::Stored { id, .. } if id == said.id()));

    let mut eli = Client::connect(community.address()).await;
    let refused = eli.pins(&new, &old).await;
    assert!(
        matches!(
            refused,
            Frame::Refused {
                why: Refusal::BadProof,
                ..
            }
        ),
        "{refused:?}"
    );
    let refused = eli
        .asks(Frame::Fetch {
            topic: new.topic(),
            ids: vec![said.id()],
        })
        .await;
    assert!(
        matches!(
            refused,
            Frame::Refused {
                why: Refusal::NotPinned,
                ..
            }
        ),
        "{refused:?}"
    );
    // An envelope of the old key that claims the new topic, from whoever may send there.
    let mut forged = envelope(&old, b"an evening").as_bytes().to_vec();
    forged[5..37].copy_from_slice(new.topic().as_bytes());
    for client in [&mut eli, &mut ana] {
        let refused = client.asks(Frame::Put(forged.clone())).await;
        assert!(matches!(refused, Frame::Refused { .. }), "{refused:?}");
    }

    // The node serves on, and holds what Ana put and nothing else.
    let mut ben = Client::connect(community.address()).await;
    assert!(matches!(ben.pins(&new, &new).await, Frame::Pinned { .. }));
    let ids = vec![said.id(), kith_protocol::id::EnvelopeId::of(&forged)];
    let delivered = ben
        .asks(Frame::Fetch {
            topic: new.topic(),
            ids,
        })
        .await;
    assert_eq!(delivered, Frame::Deliver(said.as_bytes().to_vec()));
    let refused = ben.answer().await;
    assert!(
        matches!(
            refused,
            Frame::Refused {
                why: Refusal::Expired,
                ..
            }
        ),
        "{refused:?}"
    );
}
