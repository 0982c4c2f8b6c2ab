"""Pairs of a gold answer and a given one, with the verdict that a mathematician would give.

`|` stands between verdicts that are both right: a tower of powers may be told from 5, or be too much to work out, but
it must not be called 5. What is meant by a gold answer is judged as in a school's test: units and "x =" may be left
out, an approximation is not the number, order matters in pairs and not in sets.
"""

C, W = "correct", "wrong"
TOO_MUCH = "wrong|invalid"
SAME_TOWER = "correct|invalid"

INTEGERS = [
    ("72", "72", C),
    ("72", "72.", C),
    ("72", " 72 \n", C),
    ("72", "$72$", C),
    ("72", r"\boxed{72}", C),
    ("72", r"The answer is $\boxed{72}$.", C),
    ("72", "The answer is 72.", C),
    ("72", "72.0", C),
    ("72", "+72", C),
    ("72", "27", W),
    ("72", "-72", W),
    ("72", "720", W),
    ("72", "7 2", W),
    ("72", "", W),
    ("72", "I do not know", W),
    ("-5", "-5", C),
    ("-5", "\u22125", C),
    ("-5", "5", W),
    ("0", "0", C),
    ("0", "-0", C),
    ("0", "none", W),
    ("1,234", "1234", C),
    ("1234567", "1,234,567", C),
    ("10,\\!000", "10000", C),
    ("1234", r"1{,}234", C),
    ("10000", "1000", W),
    ("12", "12 or 13", W),
    ("12", "1 2", W),
    ("8", "2^3", C),
    ("120", "5!", C),
    ("8", "2*4", C),
]

FRACTIONS = [
    (r"\frac{1}{2}", "1/2", C),
    (r"\frac{1}{2}", "0.5", C),
    (r"\frac{1}{2}", ".5", C),
    (r"\frac{1}{2}", r"\dfrac{1}{2}", C),
    (r"\frac{1}{2}", r"\frac12", C),
    (r"\frac{1}{2}", r"$\tfrac{2}{4}$", C),
    (r"\frac{1}{2}", "2", W),
    (r"\frac{1}{2}", "1/3", W),
    (r"\frac{1}{2}", "12", W),
    (r"\frac{3}{4}", "75/100", C),
    (r"-\frac{3}{4}", r"\frac{-3}{4}", C),
    (r"-\frac{3}{4}", r"\frac{3}{-4}", C),
    (r"-\frac{3}{4}", "-0.75", C),
    (r"-\frac{3}{4}", "3/4", W),
    (r"\frac{1}{3}", "0.333", W),
    (r"\frac{1}{3}", "0.3", W),
    (r"\frac{2}{3}", r"\frac{4}{6}", C),
    (r"\frac{22}{7}", r"\pi", W),
    ("1/0", "0", "wrong|invalid"),
    (r"\frac{a}{b}", "a/b", C),
    (r"\frac{a}{b}", "b/a", W),
]

MIXED = [
    (r"1\frac{1}{2}", "3/2", C),
    (r"1\frac{1}{2}", "1.5", C),
    (r"\frac{3}{2}", "1 1/2", C),
    (r"\frac{3}{2}", r"1\frac12", C),
    (r"\frac{3}{2}", "1/2", W),
    (r"-\frac{5}{2}", r"-2\frac{1}{2}", C),
    (r"11\frac{1}{2}", "11.5", C),
    (r"11\frac{1}{2}", "5.5", W),
]

DECIMALS = [
    ("0.25", "1/4", C),
    ("0.25", ".25", C),
    ("0.25", "0.250", C),
    ("0.25", "0.2500001", W),
    ("0.25", "0.52", W),
    ("3.14", "3.14", C),
    ("3.14", r"\pi", W),
    (r"\pi", "3.14", W),
    ("2.50", "$2.50", C),
    ("2.50", r"\$2.50", C),
    ("1.05", "1.5", W),
]

SCIENTIFIC = [
    (r"3\times 10^5", "300000", C),
    (r"3\times 10^5", "300,000", C),
    (r"3\times 10^5", "3e5", C),
    (r"3 \times 10^{5}", r"3\cdot 10^5", C),
    (r"3\times 10^5", "3*10^5", C),
    (r"3\times 10^5", "3 x 10^5", C),
    (r"3\times 10^5", r"3\times 10^6", W),
    ("0.0012", r"1.2\times 10^{-3}", C),
    ("0.0012", "1.2e-3", C),
    ("0.0012", r"1.2\times 10^{3}", W),
    (r"2.5 \times 10^{10}", "25000000000", C),
]

PERCENT = [
    (r"50\%", "50%", C),
    (r"50\%", r"50\%", C),
    (r"50\%", "0.5", C),
    ("0.5", "50%", C),
    (r"50\%", "50 percent", C),
    (r"50\%", "5%", W),
    (r"12.5\%", r"\frac{1}{8}", C),
    ("25", r"25\%", C),
]

UNITS = [
    ("5", "5 cm", C),
    ("5", r"5\text{ cm}", C),
    ("5", r"5\ \mathrm{cm}", C),
    (r"5\text{ cm}", "5", C),
    (r"5 \text{ cm}^2", "5", C),
    ("5", "6 cm", W),
    (r"5\text{ cm}", r"5\text{ m}", W),
    ("12", "$12", C),
    ("12", "12 dollars", C),
    ("12", "12 apples", C),
    (r"\$18.90", "18.90", C),
    (r"\$18.90", "18.09", W),
    ("36", "36 square units", C),
    (r"90^\circ", "90", C),
    (r"90^\circ", "90 degrees", C),
    (r"90^\circ", "90\u00b0", C),
    ("90", r"90^{\circ}", C),
    (r"90^\circ", r"45^\circ", W),
    (r"90^\circ", "100", W),
]

SURDS = [
    (r"\sqrt{2}", "sqrt(2)", C),
    (r"\sqrt{2}", r"\sqrt2", C),
    (r"\sqrt{2}", "\u221a2", C),
    (r"\sqrt{2}", "2^{1/2}", C),
    (r"\sqrt{2}", "1.414", W),
    (r"\sqrt{2}", r"\sqrt{3}", W),
    (r"\sqrt{8}", r"2\sqrt{2}", C),
    (r"\sqrt{8}", r"4\sqrt{2}", W),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", C),
    (r"\frac{\sqrt{2}}{2}", "sqrt(2)/2", C),
    (r"\frac{1+\sqrt{5}}{2}", r"\frac{\sqrt{5}+1}{2}", C),
    (r"\frac{1+\sqrt{5}}{2}", r"\frac{1-\sqrt{5}}{2}", W),
    (r"\sqrt[3]{8}", "2", C),
    (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}", C),
    (r"3\sqrt{13}", r"\sqrt{117}", C),
    (r"2\pi", "2*pi", C),
    (r"2\pi", "2\u03c0", C),
    (r"2\pi", "6.28", W),
    (r"\frac{\pi}{6}", "pi/6", C),
    (r"\frac{\pi}{6}", "30", W),
]

POLYNOMIALS = [
    ("x^2+2x+1", "(x+1)^2", C),
    ("x^2+2x+1", "1 + 2x + x^2", C),
    ("x^2+2x+1", "x**2 + 2*x + 1", C),
    ("x^2+2x+1", "x^2+2x-1", W),
    ("x^2+2x+1", "y^2+2y+1", W),
    ("(x-2)(x+3)", "x^2+x-6", C),
    ("(x-2)(x+3)", "(x+3)(x-2)", C),
    ("(x-2)(x+3)", "(x+2)(x-3)", W),
    ("p - q", "-q + p", C),
    ("p - q", "q - p", W),
    (r"x^{10}", "x^10", C),
    (r"x^{10}", "x^{11}", W),
    (r"\frac{x+1}{x-1}", "(x+1)/(x-1)", C),
    ("2xy", "2yx", C),
    (r"\sin^2 x + \cos^2 x", "1", C),
    (r"e^{x}", r"\exp(x)", C),
]

EQUATIONS = [
    ("3", "x=3", C),
    ("3", "$x = 3$", C),
    ("x=3", "3", C),
    ("x=3", "x=3", C),
    ("x=3", "x=4", W),
    ("3", "x=-3", W),
    ("y=2x+1", "y = 1 + 2x", C),
    ("y=2x+1", "2x - y + 1 = 0", C),
    ("y=2x+1", "y=2x-1", W),
    ("x \\ge 2", r"x \geq 2", C),
    ("x \\ge 2", "x > 2", W),
    ("x \\ge 2", r"2 \le x", C),
    ("x<5", "x<6", W),
]

INTERVALS = [
    ("(1,3)", "(1, 3)", C),
    ("[1,3]", r"\left[1,3\right]", C),
    ("[1,3]", "(1,3)", W),
    ("[1,3)", "[1,3]", W),
    (r"(-\infty,2)", "(-inf, 2)", C),
    (r"(-\infty,2)", r"(-\infty, 2]", W),
    (r"(-\infty,1)\cup(2,\infty)", r"(-\infty,1) \cup (2,\infty)", C),
    (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)", C),
    (r"(-\infty,1)\cup(2,\infty)", r"(-\infty,2)", W),
    ("(1,3)", "1<x<3", C),
    ("[2,\\infty)", r"x \ge 2", C),
    ("[2,\\infty)", "x > 2", W),
]

SETS = [
    (r"\{1,2,3\}", r"\{3,2,1\}", C),
    (r"\{1,2,3\}", "{1, 2, 3}", C),
    (r"\{1,2,3\}", r"\{1,2\}", W),
    (r"\{1,2,3\}", r"\{1,2,4\}", W),
    ("1, 2", "2, 1", C),
    ("1, 2", "1 and 2", C),
    ("1, 2", "1", W),
    ("1, 2", "1, 2, 3", W),
    (r"1,-2", r"-2,1", C),
    (r"\pm 3", "3, -3", C),
    (r"\emptyset", r"\{\}", C),
    ("3", "1, 2, 3", W),
]

TUPLES = [
    ("(1,2)", "(1,2)", C),
    ("(1,2)", r"\left( 1, 2 \right)", C),
    ("(1,2)", "(2,1)", W),
    ("(1,2)", "(1,2,3)", W),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", C),
    (r"\left( 3, \frac{\pi}{2} \right)", "(3, pi/2)", C),
    (r"\left( 3, \frac{\pi}{2} \right)", r"\left( \frac{\pi}{2}, 3 \right)", W),
    (r"\left(\frac{1}{2},2\right)", "(0.5, 2)", C),
    ("(x,y)=(1,2)", "(1,2)", C),
]

MATRICES = [
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", C),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", C),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", W),
    (r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}", r"\begin{pmatrix} 0.5 \\ 3 \end{pmatrix}", C),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", W),
]

WORDS = [
    (r"\text{east}", "east", C),
    (r"\text{Evelyn}", r"\text{Evelyn}", C),
    (r"\text{Evelyn}", "Evelyn", C),
    (r"\text{Evelyn}", "Carla", W),
    (r"\text{(B)}", "B", C),
    (r"\text{(B)}", "(C)", W),
    (r"\text{even}", "odd", W),
]

COMPLEX = [
    ("3+4i", "4i+3", C),
    ("3+4i", "3-4i", W),
    ("i", "-i", W),
    (r"6 - 5i", r"\boxed{6-5i}", C),
]

SPEECH = [
    ("42", "So we have 6*7 = 42. The answer is 42.", C),
    ("42", r"We get $6 \cdot 7 = 42$.", C),
    ("42", r"First \boxed{41}, no, \boxed{42}", C),
    ("42", "The answer is 41, not 42.", W),
    (r"\frac{3}{8}", r"The probability is $\frac{3}{8}$.", C),
    (r"\frac{3}{8}", r"The probability is $\frac{5}{8}$.", W),
]

TOWERS = [
    ("5", "9**9**9**9", TOO_MUCH),
    ("5", "9^{9^{9^{9}}}", TOO_MUCH),
    ("5", "2^{2^{2^{100}}}", TOO_MUCH),
    ("2^{2^{2^{100}}}", "2^{2^{2^{100}}}", SAME_TOWER),
    ("7", "(((((((((9^9)^9)^9)^9)^9)^9)^9)^9)^9)", TOO_MUCH),
    ("x", "(x+1)^{10^{10}}", TOO_MUCH),
    ("3", "1" + "0" * 5000, TOO_MUCH),
    ("3", "1e999999999", TOO_MUCH),
    ("3", "10^{10^{10}}!", TOO_MUCH),
    ("3", "(" * 3000, TOO_MUCH),
]

PAIRS = [
    *INTEGERS,
    *FRACTIONS,
    *MIXED,
    *DECIMALS,
    *SCIENTIFIC,
    *PERCENT,
    *UNITS,
    *SURDS,
    *POLYNOMIALS,
    *EQUATIONS,
    *INTERVALS,
    *SETS,
    *TUPLES,
    *MATRICES,
    *WORDS,
    *COMPLEX,
    *SPEECH,
    *TOWERS,
]
