//! A radix tree over paths, byte by byte, with places where a whole segment or all that is left may stand. It never
//! looks at more of a path than the patterns share with it, and there is no hash for a client to attack.
//!
//! Both walks report in order of precedence and stop when told to. Each node is visited at most once in a walk, and
//! recursion is as deep as the longest pattern, never as the request's path.

use std::ops::ControlFlow;

use super::template::Piece;

#[derive(Debug, Default)]
pub(super) struct Tree {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    text: Box<[u8]>,
    /// The first byte of each child's text, in the same order. No two are equal.
    firsts: Vec<u8>,
    children: Vec<Node>,
    /// What may follow one whole segment. Only where a segment begins.
    capture: Option<Box<Node>>,
    /// The value of a pattern that takes all that is left.
    rest: Option<u32>,
    /// The value of a pattern that ends here.
    end: Option<u32>,
}

pub(super) type Visit<'v> = dyn FnMut(u32) -> ControlFlow<()> + 'v;

impl Tree {
    /// Where the value of a template is kept. Templates that differ only in names share it.
    pub(crate) fn template(&mut self, pieces: &[Piece]) -> &mut Option<u32> {
        let mut node = &mut self.root;
        for piece in pieces {
            node = match piece {
                Piece::Literal(text) => node.literal(text.as_bytes()),
                Piece::Capture(_) => node.capture.get_or_insert_default(),
                Piece::Rest(_) => return &mut node.rest,
            };
        }
        &mut node.end
    }

    /// Where the value of a prefix is kept. The empty prefix matches everything.
    pub(crate) fn prefix(&mut self, text: &str) -> &mut Option<u32> {
        &mut self.root.literal(text.as_bytes()).end
    }

    /// Every template that matches the whole path; at the first segment where two differ, a literal goes before
    /// a capture and a capture before a rest.
    pub(crate) fn visit_templates(&self, path: &str, visit: &mut Visit<'_>) -> ControlFlow<()> {
        self.root.templates(path.as_bytes(), visit)
    }

    /// Every prefix of the path that ends on a segment boundary, longest first.
    pub(crate) fn visit_prefixes(&self, path: &str, visit: &mut Visit<'_>) -> ControlFlow<()> {
        self.root.prefixes(path.as_bytes(), visit)
    }
}

impl Node {
    /// The node at which `text`, read from here, ends; made if need be.
    fn literal(&mut self, text: &[u8]) -> &mut Node {
        let Some(&first) = text.first() else { return self };
        let Some(at) = memchr::memchr(first, &self.firsts) else {
            self.firsts.push(first);
            self.children.push(Node { text: text.into(), ..Node::default() });
            let last = self.children.len() - 1;
            return &mut self.children[last];
        };
        let child = &mut self.children[at];
        let shared = child.text.iter().zip(text).take_while(|(a, b)| a == b).count();
        if shared < child.text.len() {
            child.split(shared);
        }
        child.literal(&text[shared..])
    }

    /// Keeps the first `at` bytes of the text and moves all else into an only child.
    fn split(&mut self, at: usize) {
        let mut lower = std::mem::take(self);
        self.text = lower.text[..at].into();
        lower.text = lower.text[at..].into();
        self.firsts.push(lower.text[0]);
        self.children.push(lower);
    }

    /// The child that `path` leads to, and what is left of the path after it.
    fn step<'p>(&self, path: &'p [u8]) -> Option<(&Node, &'p [u8])> {
        let at = memchr::memchr(*path.first()?, &self.firsts)?;
        let child = &self.children[at];
        Some((child, path.strip_prefix(&*child.text)?))
    }

    fn templates(&self, path: &[u8], visit: &mut Visit<'_>) -> ControlFlow<()> {
        if path.is_empty() {
            // Nothing is left, which a rest takes as well.
            self.end.map_or(ControlFlow::Continue(()), &mut *visit)?;
            return self.rest.map_or(ControlFlow::Continue(()), visit);
        }
        if let Some((child, left)) = self.step(path) {
            child.templates(left, visit)?;
        }
        if let Some(capture) = &self.capture {
            let length = memchr::memchr(b'/', path).unwrap_or(path.len());
            if length > 0 {
                capture.templates(&path[length..], visit)?;
            }
        }
        self.rest.map_or(ControlFlow::Continue(()), visit)
    }

    fn prefixes(&self, path: &[u8], visit: &mut Visit<'_>) -> ControlFlow<()> {
        if let Some((child, left)) = self.step(path) {
            child.prefixes(left, visit)?;
        }
        let is_boundary = [self.text.last(), path.first()].iter().any(|b| b.is_none_or(|b| *b == b'/'));
        match self.end {
            Some(value) if is_boundary => visit(value),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::template::Template, *};

    fn all(walk: impl FnOnce(&mut Visit<'_>) -> ControlFlow<()>) -> Vec<u32> {
        let mut seen = Vec::new();
        let _ = walk(&mut |value| {
            seen.push(value);
            ControlFlow::Continue(())
        });
        seen
    }

    #[test]
    fn reports_templates_most_specific_first() {
        let texts =
            ["/{*all}", "/users/{id}", "/users/me", "/{kind}/me", "/users/{*rest}", "/users/{id}/posts"];
        let mut tree = Tree::default();
        for (value, text) in (0..).zip(texts) {
            *tree.template(Template::parse(text).unwrap().pieces()) = Some(value);
        }
        for (path, expected) in [
            ("/users/me", vec![2, 1, 4, 3, 0]),
            ("/users/7", vec![1, 4, 0]),
            ("/users/me/posts", vec![5, 4, 0]),
            ("/users/mexico", vec![1, 4, 0]),
            ("/users/", vec![4, 0]),
            ("/", vec![0]),
        ] {
            assert_eq!(all(|visit| tree.visit_templates(path, visit)), expected, "{path}");
        }
    }

    #[test]
    fn templates_of_one_shape_share_a_value() {
        let mut tree = Tree::default();
        *tree.template(Template::parse("/users/{id}").unwrap().pieces()) = Some(1);
        assert_eq!(*tree.template(Template::parse("/users/{name}").unwrap().pieces()), Some(1));
        assert_eq!(*tree.template(Template::parse("/users/{*name}").unwrap().pieces()), None);
    }

    #[test]
    fn reports_prefixes_longest_first_and_on_boundaries() {
        let mut tree = Tree::default();
        for (value, text) in (0..).zip(["", "/v1", "/v1/users", "/v1/users/", "/v1/us", "/v2"]) {
            *tree.prefix(text) = Some(value);
        }
        for (path, expected) in [
            ("/v1/users/7", vec![3, 2, 1, 0]),
            ("/v1/users", vec![2, 1, 0]),
            ("/v1/users2", vec![1, 0]),
            ("/v12", vec![0]),
            ("*", vec![0]),
        ] {
            assert_eq!(all(|visit| tree.visit_prefixes(path, visit)), expected, "{path}");
        }
    }

    #[test]
    fn stops_when_told_to() {
        let mut tree = Tree::default();
        *tree.prefix("/a") = Some(1);
        *tree.prefix("/a/b") = Some(2);
        let mut seen = Vec::new();
        let flow = tree.visit_prefixes("/a/b/c", &mut |value| {
            seen.push(value);
            ControlFlow::Break(())
        });
        assert_eq!((seen, flow), (vec![2], ControlFlow::Break(())));
    }
}
