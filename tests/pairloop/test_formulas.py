from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

from pairloop.lib import formulas, markdown
from tests.security import hostile


def shown(text: str) -> str:
    return str(markdown.render(text))


class TestDelimiters:
    @pytest.mark.parametrize(
        "text",
        [
            "$x$", r"\(x\)", "before $x$, after", "**$x$**", "- $x$", "> $x$", "# $x$", "($x$)", "$x$-axis",
            "| a |\n| - |\n| $x$ |", "[$x$](https://a.example)",
        ],
    )  # fmt: skip
    def test_of_formulas_in_a_line(self, text):
        assert "<math><mi>x</mi></math>" in shown(text)

    @pytest.mark.parametrize(
        "text",
        [
            "$$x$$", r"\[x\]", "$$\nx\n$$", "\\[\nx\n\\]", "- a\n  $$\n  x\n  $$", "> \\[\n> x\n> \\]", "a\n$$\nx\n$$\nb",
            "a $$x$$ b", "\\begin{equation}\nx\n\\end{equation}", "1. a\n\n   $$x$$",
        ],
    )  # fmt: skip
    def test_of_formulas_of_their_own(self, text):
        html = shown(text)

        assert re.search(
            r'<span class="formula"><math display="block">.*<mi>x</mi>.*</math></span>', html
        )
        assert "$" not in html
        assert "\\" not in html

    @pytest.mark.parametrize(
        "text",
        [
            "It costs $5 and $6.", "$5-$6", "from $5 to $10 or $15", "US$20 or AU$30", "$5, $6, and 7$", "$ x $", "$x $",
            "a $ b", "$HOME/bin:$PATH", "between $5 per month and 10$ a year", "$5k for the car, 3$ for tea", "100$", "$",
            "$$", "$$$$", "$$ x", "\\$x\\$", "\\\\(a", "`$x$`", "```\n$$\nx\n$$\n```", "    $$x$$",
        ],
    )  # fmt: skip
    def test_are_not_prices_variables_or_code(self, text):
        assert "<math" not in shown(text)

    def test_let_markdown_mark_nothing_inside(self):
        html = shown(r"$a_b * c_d * e$ and $a*b*c$")

        assert "<em>" not in html
        assert html.count("<math>") == 2

    def test_may_hold_an_escaped_dollar(self):
        assert "<mi>$</mi>" in shown(r"$a = \$5$")


class TestToMathml:
    @pytest.mark.parametrize(
        "latex",
        [
            r"\frac{-b \pm \sqrt{b^2-4ac}}{2a}", r"\sum_{i=1}^{n} i = \frac{n(n+1)}{2}", r"\int_0^\infty e^{-x^2}\,dx",
            r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}", r"\begin{aligned} a &= b \\ &= c \end{aligned}",
            r"f(x) = \begin{cases} 1 & x > 0 \\ 0 & \text{otherwise} \end{cases}", r"\boxed{42}", r"\lim_{x \to 0} x",
            r"\mathbb{R}^n \mathcal{L} \mathbf{x} \mathrm{d}x", r"\left( \frac{a}{b} \right]", r"\binom{n}{k}",
            r"\operatorname{softmax}(x)_i", r"\overline{AB} \hat{x} \vec{v}", r"\text{速度} = v", r"50\% \implies x",
            r"\sum_{\substack{i<n\\ j<m}} x", r"\begin{array}{c|c} a & b \\ \hline c & d \end{array}", r"x \tag{1}",
            r"\begin{align} a &= b \\ c &= d \end{align}", r"\begin{split} a &= b \end{split}", r"a \equiv b \pmod{n}",
            r"\lVert x \rVert \langle y \rangle", r"\ldots \cdots \vdots", r"f'(x)", r"\underbrace{a+b}_{n}",
        ],
    )  # fmt: skip
    def test_knows_what_models_write(self, latex):
        made = formulas.to_mathml(latex, is_block=True)

        assert made.startswith('<math display="block">')
        assert made.endswith("</math>")
        assert " style=" not in made

    @pytest.mark.parametrize("name", ["align", "gather", "equation"])
    def test_gives_no_numbers_that_nobody_wrote(self, name):
        made = formulas.to_mathml(rf"\begin{{{name}}}x\end{{{name}}}", is_block=True)

        assert "(1)" not in made

    def test_puts_columns_where_they_belong_by_class(self):
        made = formulas.to_mathml(r"\begin{aligned} a &= b \end{aligned}", is_block=True)

        assert '<mtd class="no-end to-end"><mi>a</mi></mtd>' in made

    @pytest.mark.parametrize(
        "latex",
        [
            r"\foo{x}", r"\frac{1}{", "a & b", "x^a^b", r"\begin{matrix}", r"\href{https://a.example}{x}", r"\ce{H2O}",
            r"\def\x{y}\x", r"\newcommand{\x}{\x\x}\x", r"\let\x\y", "", " ", "\\", "{" * 30 + "}" * 30, "x" * 3001,
            r"\sqrt " * 500, "x^{" * 25 + "}" * 25, r"\begin{matrix}" * 5 + r"\end{matrix}" * 5, r"\left(" * 25,
            "\\frac\ud800",
        ],
        ids=range(20),
    )  # fmt: skip
    def test_leaves_the_rest(self, latex):
        assert formulas.to_mathml(latex, is_block=False) is None

    def test_survives_faults_of_the_converter(self, monkeypatch):
        class Broken:
            def convert_with_local_state(self, latex, *, displaystyle):
                raise type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

        monkeypatch.setattr(formulas, "CONVERTER", Broken())

        assert formulas.to_mathml("x", is_block=False) is None

    def test_counts_no_nesting_that_is_closed(self):
        assert formulas.to_mathml(r"\frac{a}{b}" * 60, is_block=False)

    @pytest.mark.parametrize(
        "part",
        [
            "{",
            r"\sqrt ",
            r"\frac1",
            r"\bf{",
            "x^{",
            r"\not ",
            r"\hat ",
            r"\int_",
            r"\mathbf ",
            "x_",
        ],
    )
    def test_never_runs_out_of_stack(self, part):
        # The converter is recursive: beyond its stack, the whole web process would be gone.
        program = f"""
            import threading
            from pairloop.lib import formulas

            # What a thread has that is given the least.
            threading.stack_size(2 * 1024 * 1024)
            formulas.DEEPEST = formulas.DEEPEST_TABLE = 10_000
            part = {part!r}
            steps = len(formulas.STEPS.findall(part))
            latex = part * min(formulas.MOST_STEPS // steps, formulas.LONGEST // len(part))
            assert not formulas._asks_too_much(latex)
            thread = threading.Thread(target=formulas.to_mathml, args=[latex], kwargs={{"is_block": True}})
            thread.start()
            thread.join()
        """

        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            check=False,
        )

        assert (done.returncode, done.stderr) == (0, "")


class TestShown:
    @pytest.mark.parametrize("latex", [r"$\foo{<b>}$", r"\(\frac{1}{\)", "$$\n\\foo{<b>}\n$$"])
    def test_as_its_source_when_it_is_no_formula(self, latex):
        html = shown(latex)

        source = latex.replace("<", "&lt;").replace(">", "&gt;")
        assert f'<code class="tex">{source}</code>' in html

    def test_keeps_its_shape_through_the_sanitiser(self):
        for latex in (
            r"\frac{a}{b} \sqrt[3]{x} \hat{x} \boxed{42} x_i^2 \binom{n}{k} \bigl( \lim_{x} \text{a}",
            r"\begin{aligned} a &= b \end{aligned} \begin{array}{c|c} a & b \end{array} \mathrm{d}x",
        ):
            made = formulas.to_mathml(latex, is_block=True)

            cleaned = markdown.CLEANER.clean(made)

            shape = [
                re.findall(r"</?[a-z]+", one.replace("/>", "></mspace>")) for one in (made, cleaned)
            ]
            assert shape[0] == shape[1]
            assert lost(made) - lost(cleaned) <= {"voffset"}

    def test_are_not_more_than_a_browser_can_lay_out(self):
        html = shown("$x$ " * (formulas.MOST + 2))

        assert html.count("<math") == formulas.MOST
        assert html.count('<code class="tex">$x$</code>') == 2

    def test_may_scroll_when_it_is_long(self):
        assert '<math class="is-long">' in shown("$" + "x + " * 40 + "x$")
        assert "is-long" not in shown("$x + x$")

    @pytest.mark.parametrize(
        "html",
        [
            f'<math href="javascript:{hostile.RUN}"><mi>x</mi></math>',
            f'<math><mi xlink:href="javascript:{hostile.RUN}">x</mi></math>',
            '<math><mi style="position:fixed">x</mi></math>',
            '<math><mrow mathbackground="red" mathcolor="white" onclick="x"><mi>x</mi></mrow></math>',
            '<math><mi class="verdict" id="judge">x</mi></math>',
        ],
    )
    def test_has_no_attribute_that_does_more_than_place(self, html):
        cleaned = markdown.CLEANER.clean(html)

        assert re.findall(r"[\w:-]+=", cleaned) == []

    @pytest.mark.parametrize(
        "tag", ["annotation-xml", "maction", "mglyph", "semantics", "merror", "mstyle"]
    )
    def test_has_no_element_that_holds_anything_or_acts(self, tag):
        html = f"<math><{tag}><img src=x onerror={hostile.RUN}></{tag}></math>"

        assert f"<{tag}" not in markdown.CLEANER.clean(html)
        assert "<img" not in markdown.CLEANER.clean(html)


def lost(html: str) -> set[str]:
    return set(re.findall(r"([\w-]+)=", html))
