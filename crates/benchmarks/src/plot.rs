//! Drawings of lines, as SVG: no library, since axes and lines are all there is.

use std::fmt::Write;

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// From left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// Room for words around the drawing: left, right, top, bottom.
const MARGINS: (f64, f64, f64, f64) = (80.0, 210.0, 40.0, 50.0);
/// Told apart by most eyes.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31"];
const STEPS: u32 = 5;

/// Lines over a logarithmic axis; the other begins at zero.
pub(crate) fn lines(title: &str, (across, up): (&str, &str), lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let (low, high) = points().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
    let top = nice(points().map(|(_, y)| *y).fold(0.0, f64::max));
    let mut marks: Vec<f64> = points().map(|(x, _)| *x).collect();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    let (left, right, above, below) = MARGINS;
    let span = if high > low { (high / low).ln() } else { 1.0 };
    let x_of = |x: f64| left + (x / low).ln() / span * (WIDTH - left - right);
    let y_of = |y: f64| HEIGHT - below - y / top * (HEIGHT - above - below);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, left, above - 20.0, "start", title);
    text(&mut svg, (left + WIDTH - right) / 2.0, HEIGHT - 10.0, "middle", across);
    text(&mut svg, left, above - 5.0, "end", up);
    for step in 0..=STEPS {
        let value = top * f64::from(step) / f64::from(STEPS);
        text(&mut svg, left - 6.0, y_of(value) + 4.0, "end", &short(value));
    }
    for mark in &marks {
        text(&mut svg, x_of(*mark), HEIGHT - below + 16.0, "middle", &short(*mark));
    }
    for (index, line) in lines.iter().enumerate() {
        let y = above + 16.0 * (f64::from(u32::try_from(index).unwrap_or(u32::MAX)) + 0.5);
        text(&mut svg, WIDTH - right + 32.0, y + 4.0, "start", &line.name);
        let colour = COLOURS[index % COLOURS.len()];
        let _ =
            writeln!(svg_line(&mut svg, colour), "M{:.1} {y:.1}H{:.1}\"/>", WIDTH - right + 8.0, WIDTH - right + 28.0);
        let path: Vec<String> = line.points.iter().map(|(x, y)| format!("{:.1} {:.1}", x_of(*x), y_of(*y))).collect();
        if !path.is_empty() {
            let _ = writeln!(svg_line(&mut svg, colour), "M{}\"/>", path.join("L"));
        }
    }
    let (bottom, end) = (HEIGHT - below, WIDTH - right);
    let _ = writeln!(svg_line(&mut svg, "#888888"), "M{left} {above}V{bottom}H{end}\"/>");
    svg + "</svg>\n"
}

/// Words at a place.
fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

/// The front of a line, up to what it goes through.
fn svg_line<'a>(svg: &'a mut String, colour: &str) -> &'a mut String {
    let _ = write!(svg, "<path fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" d=\"");
    svg
}

/// The next number above that is easily divided.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let unit = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|times| times * unit).find(|top| *top >= value).unwrap_or(value)
}

fn short(value: f64) -> String {
    match value {
        large if large >= 10_000.0 => format!("{:.0}k", large / 1000.0),
        small if small < 10.0 && small.fract() != 0.0 => format!("{small:.1}"),
        other => format!("{other:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_numbers_that_are_easily_divided() {
        assert_eq!([0.0, 7.0, 92_000.0, 1.0, 10.7].map(nice), [1.0, 10.0, 100_000.0, 1.0, 20.0]);
    }

    #[test]
    fn a_drawing_has_every_line_and_every_mark() {
        let line = |name: &str, points: &[(f64, f64)]| Line { name: name.to_owned(), points: points.to_vec() };
        let svg = lines(
            "reads & writes",
            ("depth", "requests/s"),
            &[line("oxtap", &[(1.0, 20_000.0), (32.0, 100_000.0)]), line("qemu-nbd", &[(1.0, 10_000.0)])],
        );
        for words in ["reads &amp; writes", ">oxtap<", ">qemu-nbd<", ">1<", ">32<", ">100k<", ">depth<"] {
            assert!(svg.contains(words), "{words}: {svg}");
        }
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        // From the lower left to the upper right.
        assert!(svg.contains("M80.0 304.0L550.0 40.0"), "{svg}");
    }
}
