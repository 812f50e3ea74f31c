//! Prometheus's own text format, for who asks for text alone: a browser, promtool.

/// The same families with the names that they have there. There is no type for infos, and no unit.
pub fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = "";
    for line in openmetrics.lines() {
        if let Some(line) = line.strip_prefix("# HELP ") {
            help = line.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            text.extend(["# HELP ", name, suffix, " ", help, "\n# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with("# ") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::classic;

    #[test]
    fn families_have_their_samples_names() {
        let openmetrics = "# HELP a_bytes Some text.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\n\
            a_bytes_total{x=\"# TYPE y z\"} 5\n# HELP b B.\n# TYPE b info\nb_info{v=\"1\"} 1\n\
            # HELP c C.\n# TYPE c gauge\nc 1\n# EOF\n";
        let expected = "# HELP a_bytes_total Some text.\n# TYPE a_bytes_total counter\n\
            a_bytes_total{x=\"# TYPE y z\"} 5\n# HELP b_info B.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n\
            # HELP c C.\n# TYPE c gauge\nc 1\n";
        assert_eq!(classic(openmetrics), expected);
    }
}
