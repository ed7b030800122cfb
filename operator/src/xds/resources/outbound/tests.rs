use envoy_types::pb::envoy::config::cluster::v3::Cluster;

use super::*;
use crate::{
    intent::{Protocol, ServiceKey},
    xds::wire,
};

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

#[test]
fn the_cluster_of_an_arm_has_another_version_and_stat_name_and_others_keep_theirs() {
    let node = NodeKey::new("shop", "caller", "caller-0");
    let built = |is_arm, original| {
        let (key, _) = to(&[1]).remove(0);
        let known = Destination { is_arm, original, ..Destination::of(key, Protocol::Http, Vec::new()) };
        let pod = PodIntent { destinations: vec![Arc::new(known)], ..PodIntent::default() };
        let mut resources = Vec::new();
        Builder::default().pod(&node, &pod, Vec::new(), &mut resources);
        let cluster = resources.swap_remove(0);
        let encoded = wire::Resource::decode(cluster.encoded).unwrap().resource.unwrap().value;
        (cluster.version, Cluster::decode(encoded).unwrap().alt_stat_name)
    };
    let (other, original) = (built(false, false), built(false, true));
    assert_eq!(other, (version(&(GENERATOR, "destination", Protocol::Http)), "out_shop_cart_80".to_owned()));
    assert_eq!(original.0, version(&(GENERATOR, "original", None::<u32>)));
    let arms = [built(true, false), built(true, true)];
    assert!(arms.iter().all(|(_, stat_name)| stat_name == "arm_shop_cart_80"), "{arms:?}");
    let mut versions = vec![other.0, original.0, arms[0].0.clone(), arms[1].0.clone()];
    versions.sort();
    versions.dedup();
    assert_eq!(versions.len(), 4);
}
