use super::*;
use middlenet_sdk::middlebox::Board;
use proptest::prelude::*;

fn servers(weights: &[u32]) -> Vec<Server> {
    let address = |n: usize| format!("10.0.{}.{}:80", n / 250, n % 250 + 1);
    let server = |(n, &weight)| Server::Weighted(config::Weighted { address: address(n), weight });
    weights.iter().enumerate().map(server).collect()
}

fn balancer(weights: &[u32], balance: Balance) -> Balancer {
    Balancer::new(&servers(weights), balance, None, &mut Init::default()).unwrap()
}

fn picks(balancer: &mut Balancer, board: &Board, count: usize) -> Vec<usize> {
    (0..count as u64).map(|key| balancer.pick(board.upstreams(), || hash(&key.to_le_bytes())).at).collect()
}

fn shares(picks: &[usize], count: usize) -> Vec<usize> {
    (0..count).map(|at| picks.iter().filter(|&&p| p == at).count()).collect()
}

const ALL: [Balance; 4] =
    [Balance::RoundRobin, Balance::LeastConnections, Balance::ConsistentHash, Balance::RandomTwoChoices];

#[test]
fn turns_are_interleaved_as_nginx_does_it() {
    let mut balancer = balancer(&[5, 1, 1], Balance::RoundRobin);
    assert_eq!(picks(&mut balancer, &Board::default(), 14), [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn what_a_lost_upstream_would_get_is_spread_by_weight() {
    let (mut balancer, board) = (balancer(&[1, 1, 2], Balance::RoundRobin), Board::default());
    board.publish(0, false, 0);
    assert_eq!(shares(&picks(&mut balancer, &board, 1200), 3), [0, 400, 800]);
    board.publish(0, true, 0);
    assert_eq!(shares(&picks(&mut balancer, &board, 1200), 3), [300, 300, 600]);
}

#[test]
fn the_least_loaded_for_its_weight_is_chosen() {
    let (mut balancer, board) = (balancer(&[1, 1, 4], Balance::LeastConnections), Board::default());
    for (at, active) in [(0, 3), (1, 2), (2, 7)] {
        board.publish(at, true, active);
    }
    assert_eq!(picks(&mut balancer, &board, 3), [2, 2, 2]);
    board.publish(2, true, 9);
    assert_eq!(picks(&mut balancer, &board, 3), [1, 1, 1]);
    board.publish(0, true, 2);
    assert_eq!(shares(&picks(&mut balancer, &board, 300), 3)[2], 0, "those that are equal take turns");
    board.publish(1, false, 0);
    assert_eq!(picks(&mut balancer, &board, 3), [0, 0, 0]);
}

#[test]
fn of_two_choices_the_most_loaded_is_never_the_better() {
    let (mut balancer, board) = (balancer(&[1; 5], Balance::RandomTwoChoices), Board::default());
    board.publish(3, true, 100);
    let shares = shares(&picks(&mut balancer, &board, 4000), 5);
    assert_eq!(shares[3], 0);
    assert!(shares.iter().enumerate().all(|(at, &n)| at == 3 || n > 700), "{shares:?}");
}

#[test]
fn when_all_are_down_all_are_used() {
    for balance in ALL {
        let (mut balancer, board) = (balancer(&[1, 2, 3], balance), Board::default());
        (0..3).for_each(|at| board.publish(at, false, 0));
        let mut seen = [false; 3];
        for key in 0..200u64 {
            let pick = balancer.pick(board.upstreams(), || hash(&key.to_le_bytes()));
            assert!(pick.is_down);
            seen[pick.at] = true;
        }
        assert_eq!(seen, [true; 3], "{balance:?}");
    }
}

#[test]
fn hashing_follows_the_weights() {
    let mut even = balancer(&[1; 10], Balance::ConsistentHash);
    let even = shares(&picks(&mut even, &Board::default(), 100_000), 10);
    assert!(even.iter().all(|n| n.abs_diff(10_000) < 800), "{even:?}");
    let mut uneven = balancer(&[1, 2, 5], Balance::ConsistentHash);
    let uneven = shares(&picks(&mut uneven, &Board::default(), 80_000), 3);
    assert!(uneven.iter().zip([10_000, 20_000, 50_000]).all(|(n, share)| n.abs_diff(share) < share / 20), "{uneven:?}");
}

#[test]
fn an_upstream_that_leaves_moves_its_share_and_no_more() {
    for weights in [[1; 10], [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]] {
        let all = servers(&weights);
        let place = |left: usize, at: usize| if at >= left { at + 1 } else { at };
        let mut full = Balancer::new(&all, Balance::ConsistentHash, None, &mut Init::default()).unwrap();
        let before = picks(&mut full, &Board::default(), 20_000);
        for left in 0..all.len() {
            let mut fewer = all.clone();
            fewer.remove(left);
            let mut rest = Balancer::new(&fewer, Balance::ConsistentHash, None, &mut Init::default()).unwrap();
            let after = picks(&mut rest, &Board::default(), 20_000);
            for (&before, after) in before.iter().zip(after) {
                assert!(before == left || before == place(left, after));
            }
        }
    }
}

#[test]
fn an_upstream_that_is_down_moves_its_share_and_no_more_and_evenly() {
    let (mut balancer, board) = (balancer(&[1; 5], Balance::ConsistentHash), Board::default());
    let before = picks(&mut balancer, &board, 50_000);
    board.publish(2, false, 0);
    let after = picks(&mut balancer, &board, 50_000);
    let mut moved = Vec::new();
    for (before, after) in before.into_iter().zip(after) {
        if before == 2 { moved.push(after) } else { assert_eq!(before, after) }
    }
    let shares = shares(&moved, 5);
    assert_eq!(shares[2], 0);
    assert!([0, 1, 3, 4].iter().all(|&at| shares[at].abs_diff(moved.len() / 4) < moved.len() / 20), "{shares:?}");
}

#[test]
fn no_upstream_goes_far_beyond_its_share_where_load_is_bounded() {
    let mut init = Init::default();
    let mut balancer = Balancer::new(&servers(&[1; 4]), Balance::ConsistentHash, Some(1.25), &mut init).unwrap();
    let board = Board::default();
    let mut active = [0u32; 4];
    for _ in 0..400 {
        // Everybody asks for the same.
        let at = balancer.pick(board.upstreams(), || 7).at;
        active[at] += 1;
        board.publish(at, true, active[at]);
        let total: u32 = active.iter().sum();
        assert!(f64::from(active[at]) <= 1.25 * f64::from(total) / 4.0 + 1.0, "{active:?}");
    }
    assert!(active.iter().all(|&n| n > 0), "{active:?}");
}

#[test]
fn mistakes_are_told() {
    let refused = |list: &str, balance, max_load| {
        let servers: Vec<Server> = serde_json::from_str(list).unwrap();
        Balancer::new(&servers, balance, max_load, &mut Init::default()).err().unwrap().message
    };
    assert!(refused("[]", Balance::RoundRobin, None).contains("no upstream"));
    assert!(refused("[\"a:80\"]", Balance::RoundRobin, None).contains("`a:80`"));
    assert!(refused("[\"10.0.0.1:80\", \"10.0.0.1:80\"]", Balance::RoundRobin, None).contains("twice"));
    assert!(refused("[{\"address\": \"10.0.0.1:80\", \"weight\": 0}]", Balance::RoundRobin, None).contains("weight"));
    assert!(refused("[\"10.0.0.1:80\"]", Balance::RoundRobin, Some(1.5)).contains("max_load"));
    assert!(refused("[\"10.0.0.1:80\"]", Balance::ConsistentHash, Some(0.5)).contains("max_load"));
}

proptest! {
    /// The turns that were worked out beforehand are those of the algorithm, and over a round exactly the weights.
    #[test]
    fn rounds_give_each_its_weight(weights in proptest::collection::vec(1u32..=9, 1..8)) {
        let total: u32 = weights.iter().sum();
        let mut balancer = balancer(&weights, Balance::RoundRobin);
        let picked = picks(&mut balancer, &Board::default(), total as usize);
        let mut smooth = Smooth::new(weights.len());
        let naive: Vec<usize> = (0..total).filter_map(|_| smooth.next(&weights, |_| true)).collect();
        prop_assert_eq!(&picked, &naive);
        let shares: Vec<u32> = shares(&picked, weights.len()).iter().map(|&n| n as u32).collect();
        prop_assert_eq!(shares, weights);
    }
}

proptest! {
    // Each case makes a table of slots.
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// No way of choosing takes one that is down while another is up.
    #[test]
    fn none_that_is_down_is_chosen(
        weights in proptest::collection::vec(1u32..=256, 1..20),
        up in proptest::collection::vec(any::<(bool, u32)>(), 20),
        keys in proptest::collection::vec(any::<u64>(), 30),
    ) {
        for balance in ALL {
            let (mut balancer, board) = (balancer(&weights, balance), Board::default());
            for (at, (up, active)) in up.iter().enumerate() {
                board.publish(at, *up, *active);
            }
            let any_up = up[..weights.len()].iter().any(|(up, _)| *up);
            for &key in &keys {
                let pick = balancer.pick(board.upstreams(), || key);
                prop_assert_eq!(up[pick.at].0, any_up);
                prop_assert_eq!(pick.is_down, !any_up);
            }
        }
    }
}
