//! HPACK's code for strings (RFC 7541, section 5.2 and appendix B). The code is canonical: its lengths say all of it.

use std::sync::LazyLock;

/// By byte; behind them that of the string's end, which stands in none.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const END: usize = 256;
const ROOT: usize = 0;
/// As many as a complete code of this many words has.
const NODES: usize = LENGTHS.len() - 1;

/// Where four more bits lead from each node. No code is shorter than five, so at most one byte comes out.
struct Machine {
    steps: Vec<[Step; 16]>,
    /// Whether a string may end there: what is left over are the first bits of the end's code, all ones, and fewer than
    /// eight.
    may_end: Vec<bool>,
}

#[derive(Clone, Copy, Default)]
struct Step {
    /// `None` where the code of the end is reached.
    to: Option<u8>,
    byte: Option<u8>,
}

#[derive(Clone, Copy)]
enum Child {
    Node(usize),
    Symbol(usize),
}

static MACHINE: LazyLock<Machine> = LazyLock::new(|| {
    let tree = tree();
    let step = |node: usize, bits: usize| {
        let (mut at, mut step) = (node, Step::default());
        for bit in [3, 2, 1, 0] {
            at = match tree[at][bits >> bit & 1] {
                Child::Node(node) => node,
                Child::Symbol(END) => return Step::default(),
                Child::Symbol(byte) => {
                    step.byte = Some(byte as u8);
                    ROOT
                }
            };
        }
        Step { to: Some(at as u8), ..step }
    };
    let steps = (0..NODES).map(|node| std::array::from_fn(|bits| step(node, bits))).collect();
    let mut may_end = vec![false; NODES];
    let mut at = ROOT;
    for _ in 0..8 {
        may_end[at] = true;
        let Child::Node(next) = tree[at][1] else { break };
        at = next;
    }
    Machine { steps, may_end }
});

/// The text, or `None` where it is none.
pub(super) fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    let Machine { steps, may_end } = &*MACHINE;
    let mut text = Vec::with_capacity(coded.len() * 8 / 5);
    let mut at = ROOT;
    for byte in coded {
        for bits in [byte >> 4, byte & 15] {
            let step = steps[at][usize::from(bits)];
            at = usize::from(step.to?);
            text.extend(step.byte);
        }
    }
    may_end[at].then_some(text)
}

/// Codes of one length follow each other in the order of their symbols, behind all shorter ones.
fn tree() -> Vec<[Child; 2]> {
    let mut symbols: Vec<usize> = (0..LENGTHS.len()).collect();
    symbols.sort_by_key(|symbol| LENGTHS[*symbol]);
    // `Symbol(END)` stands where nothing has been put yet; a complete code leaves no such place but one.
    let mut tree = vec![[Child::Symbol(END); 2]];
    let (mut code, mut length) = (0_u32, 0);
    for symbol in symbols {
        code <<= LENGTHS[symbol] - length;
        length = LENGTHS[symbol];
        let mut at = ROOT;
        for bit in (1..length).rev() {
            let side = (code >> bit & 1) as usize;
            at = match tree[at][side] {
                Child::Node(node) => node,
                Child::Symbol(_) => {
                    tree.push([Child::Symbol(END); 2]);
                    let node = tree.len() - 1;
                    tree[at][side] = Child::Node(node);
                    node
                }
            };
        }
        tree[at][(code & 1) as usize] = Child::Symbol(symbol);
        code += 1;
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_complete() {
        assert_eq!(tree().len(), NODES);
        let rest: f64 = LENGTHS.iter().map(|length| 0.5_f64.powi(i32::from(*length))).sum();
        assert!((rest - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn strings_end_with_ones_and_never_with_their_end() {
        assert_eq!(decode(b"").as_deref(), Some(&b""[..]));
        assert_eq!(decode(b"\x1f").as_deref(), Some(&b"a"[..]));
        for (coded, why) in [
            (&b"\x1f\xff"[..], "more than seven bits"),
            (b"\x18", "zeros"),
            (b"\xff\xff\xff\xfd\x25\x42\x7f", "the end"),
        ] {
            assert_eq!(decode(coded), None, "{why}");
        }
    }
}
