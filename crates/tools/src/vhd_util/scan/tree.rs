//! Images under their parents.

use std::{collections::BTreeMap, path::Path};

use super::look::Seen;

/// How far a child stands behind its parent.
const INDENT: &str = "   ";

/// One line for each image: children behind their parent, those that are visible first.
pub(super) fn lines(seen: &[Seen], line: impl Fn(&Seen) -> String) -> Vec<String> {
    let known: BTreeMap<&Path, usize> =
        seen.iter().enumerate().rev().map(|(index, image)| (image.canonical.as_path(), index)).collect();
    let parents: Vec<Parentage> = seen.iter().map(|image| parentage(image, &known)).collect();
    let mut children = vec![Vec::new(); seen.len()];
    for (child, parent) in parents.iter().enumerate() {
        if let Parentage::Here(parent) = parent {
            children[*parent].push(child);
        }
    }
    children.iter_mut().for_each(|children| children.sort_by_key(|child| seen[*child].hidden != 0));
    let mut tree = Tree { seen, children, line, is_told: vec![false; seen.len()], lines: Vec::new() };
    for (root, parent) in parents.into_iter().enumerate() {
        match parent {
            Parentage::None => tree.tell(root, ""),
            Parentage::Elsewhere => tree.tell(root, " (not found in scan)"),
            Parentage::Here(_) => {}
        }
    }
    // What no root leads to is its own ancestor, or stands behind one that is.
    for image in 0..seen.len() {
        if !tree.is_told[image] {
            tree.tell(image, " (the chain leads back to it)");
        }
    }
    tree.lines
}

/// Where the parent of an image is.
enum Parentage {
    None,
    Here(usize),
    Elsewhere,
}

fn parentage(image: &Seen, known: &BTreeMap<&Path, usize>) -> Parentage {
    let Some(parent) = &image.parent else { return Parentage::None };
    let path = match &parent.path {
        Some(path) => path.as_path(),
        None if image.volume.is_some() => Path::new(&parent.name),
        None => return Parentage::Elsewhere,
    };
    known.get(path).map_or(Parentage::Elsewhere, |index| Parentage::Here(*index))
}

struct Tree<'a, L> {
    seen: &'a [Seen],
    /// Of each image, in the order in which they are told.
    children: Vec<Vec<usize>>,
    line: L,
    is_told: Vec<bool>,
    lines: Vec<String>,
}

impl<L: Fn(&Seen) -> String> Tree<'_, L> {
    /// Tells an image and all behind it; chains are as long as they like.
    fn tell(&mut self, root: usize, suffix: &str) {
        let mut open = vec![(root, 0)];
        while let Some((index, depth)) = open.pop() {
            if std::mem::replace(&mut self.is_told[index], true) {
                continue;
            }
            let suffix = if index == root { suffix } else { "" };
            self.lines.push(format!("{}{}{suffix}", INDENT.repeat(depth), (self.line)(&self.seen[index])));
            open.extend(self.children[index].iter().rev().map(|child| (*child, depth + 1)));
        }
    }
}
