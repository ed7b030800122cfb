use super::*;
use crate::intent::ServiceKey;

fn to(weights: &[u32]) -> Vec<(DestinationKey, u32)> {
    let service = ServiceKey { namespace: "shop".to_owned(), name: "cart".to_owned() };
    weights.iter().map(|weight| (DestinationKey { service: service.clone(), port: 80 }, *weight)).collect()
}

#[test]
fn weights_keep_their_proportions_and_a_constant_sum() {
    for (weights, expected) in [
        (&[1, 1][..], &[500_000, 500_000][..]),
        (&[2, 1], &[666_667, 333_333]),
        (&[1, 1, 1], &[333_334, 333_333, 333_333]),
        (&[0, 1], &[0, 1_000_000]),
        (&[0, 1, 2], &[0, 333_334, 666_666]),
        (&[1, 999_999], &[1, 999_999]),
        (&[1_000_000, 1_000_000, 1_000_000], &[333_334, 333_333, 333_333]),
    ] {
        assert_eq!(scaled(&to(weights)), expected, "{weights:?}");
    }
}

#[test]
fn requests_that_lead_nowhere_are_answered() {
    let node = NodeKey::new("shop", "edge", "edge-0");
    let forward = |weights: &[u32]| Forward { route: taking_all(&[]), to: to(weights), sticky: None };
    let status = |weights: &[u32]| match action(&node, &forward(weights)) {
        route::Action::DirectResponse(direct) => Some(direct.status),
        _ => None,
    };
    assert_eq!([status(&[]), status(&[0]), status(&[0, 0])], [Some(500); 3]);
    assert_eq!([status(&[1]), status(&[0, 1])], [None; 2]);
}
