//! Which of a node's addresses a group is told.

use crate::group::GroupPolicy;

/// What stands in a multiaddr between a community node and who is reached through it.
const CIRCUIT: &str = "/p2p-circuit/";

/// Leaves out the circuits through community nodes that the group does not name, unless it names none: a
/// circuit shows at which community node somebody meets others, which only those need to know who meet
/// them there.
pub(super) fn told_to(policy: Option<&GroupPolicy>, addresses: &[String]) -> Vec<String> {
    let named = policy.map_or(&[][..], |policy| &policy.community);
    let told = addresses
        .iter()
        .filter(|address| match address.split_once(CIRCUIT) {
            Some((through, _)) => named.is_empty() || named.iter().any(|named| named == through),
            None => true,
        });
    told.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    #[test]
    fn a_group_is_told_no_circuit_through_a_community_node_of_another() {
        let policy = |community: &[&str]| GroupPolicy {
            name: Name::new("Evening").unwrap(),
            stewards: Vec::new(),
            community: community.iter().map(|&named| named.to_owned()).collect(),
        };
        let ours = "/dns4/ours.example/tcp/4001/p2p/one";
        let theirs = "/dns4/theirs.example/tcp/4001/p2p/two";
        let circuit = |through: &str| format!("{through}{CIRCUIT}p2p/me");
        let direct = "/ip4/192.0.2.1/tcp/4001/p2p/me".to_owned();
        let all = [direct.clone(), circuit(ours), circuit(theirs)];
        assert_eq!(
            told_to(Some(&policy(&[ours])), &all),
            [direct, circuit(ours)]
        );
        assert_eq!(told_to(Some(&policy(&[])), &all), all);
    }
}
