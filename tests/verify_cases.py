"""Judged answers of seventeen kinds: for each kind `(response, gold answer)` pairs that are right and pairs that are wrong."""
B = "So the result is $\\boxed{%s}$."


def box(*pairs): return [(B % r, a) for r, a in pairs]


RIGHT = {
    "point": box((".75", "0.75"), ("-.2", "-0.2"), ("\\$.60", "0.60"), (".125", "\\frac18"), ("(.5, .25)", "(0.5, 0.25)"), ("0.4", ".4")) + [("The answer is .9", "0.9"), ("So p = .35.", "0.35")],
    "list": box(("120, 8", "8, 120"), ("\\{250, 7\\}", "7, 250"), ("45^\\circ \\text{ and } 135^\\circ", "135^\\circ, 45^\\circ"), ("60°, 120°", "\\{120^\\circ, 60^\\circ\\}"), ("1, 200, 3", "200, 3, 1"),
                ("12{,}500", "12500"), ("300, 400", "400 \\text{ and } 300")) + [("$x = \\boxed{5}$ or $x = \\boxed{125}$", "125, 5")],
    "equation": box(("f(1)=3, f(2)=9", "f(2)=9, f(1)=3"), ("P(10)=-3", "-3"), ("3x - y = 2", "y = 3x - 2"), ("2x^2+2y^2=8", "x^2+y^2=4"), ("\\lim_{x\\to 0} g(x) = 5", "5"), ("g(0)=\\frac12", "g(0)=0.5"), ("a_1 = 4", "a_1=4")),
    "unit": box(("7 \\text{ km}", "7"), ("7", "7 \\text{ km}"), ("300 \\text{ cm}", "3 \\text{ m}"), ("2 \\text{ hours}", "120 \\text{ minutes}"), ("\\$5", "500 \\text{ cents}"), ("2.5 \\text{ million}", "2500000"), ("2-7\\mathrm{i}", "2-7i"),
                ("8 \\text{ cm}^2", "8"), ("14 \\text{ marbles}", "14"), ("3\\text{ kJ}", "3000 \\text{ J}"), ("\\frac{\\pi}{2} \\text{ radians}", "90^\\circ"), ("36 \\text{ km/h}", "10 \\text{ m/s}"), ("9 \\text{ square meters}", "9 \\text{ m}^2")),
    "said": [("Final Answer: The final answer is $\\frac{3}{8}$. I hope it is correct.", "\\frac38"), ("**Answer:** The pool holds 85 litres.", "85"), ("The answer is\n\n\\[\n 14 \n\\]\n", "14"), ("The answer is $9$.\n\nThis answer is exact.", "9"),
             ("因此答案是：$25$。", "25"), ("La respuesta es 31.", "31"), ("Die Antwort lautet $8$.", "8"), ("<answer>\n\\frac{2}{9}\n</answer>", "\\frac29"), ("The answer is 6, not 7.", "6"), ("**Final Answer**\n\n$33$", "33"),
             ("Answer: Tom has 19 apples left.", "19"), ("La réponse finale est $12$.", "12"), ("Therefore, the final answer is 5 1/2 hours.", "11/2"), ("答えは 64 です。", "64"), ("Ответ: 15", "15"), ("So there are 48 in total.", "48")],
    "name": box(("p+q = 91", "91"), ("a+b+c = 2+4+6 = 12", "12"), ("(p,q) = (3,8)", "(3,8)"), ("XY = 15", "15"), ("g(5) = -2", "-2"), ("k_{\\max} = 40", "40"), ("[PQRS] = 24", "24"), ("|PQ| = 6", "6"), ("\\angle ABC = 75^\\circ", "75"),
                ("\\text{Perimeter} = 30", "30"), ("10x+y = 37", "37"), ("= 8", "8"), ("\\frac{a}{b} = \\frac23", "2/3"), ("S_{10} = 55", "55"), ("\\sum a_i = 10", "10"), ("100m + n = 415", "415")),
    "set": box(("1 \\le x < 6", "[1, 6)"), ("6 > x \\ge 1", "1 \\le x < 6"), ("\\{t : t < 2\\}", "(-\\infty, 2)"), ("x \\in [0, 4]", "0 \\le x \\le 4"), ("x \\le -1 \\text{ or } x \\ge 1", "(-\\infty,-1]\\cup[1,\\infty)"), ("\\varnothing", "\\emptyset"),
               ("\\mathbb{R}", "(-\\infty,\\infty)"), ("\\mathbb{R}\\setminus\\{2\\}", "x \\neq 2"), ("(-\\infty,2)\\cup(2,\\infty)", "\\mathbb{R}\\setminus\\{2\\}"), ("\\{x \\in \\mathbb{R} \\mid x > 0\\}", "(0,\\infty)"), ("|x| < 2", "(-2,2)"),
               ("x > 1 \\text{ and } x \\le 4", "(1,4]"), ("[0,1) \\cup (3, 4]", "(3,4]\\cup[0,1)"), ("-3 \\leq a \\leq \\sqrt{2}", "[-3,\\sqrt{2}]"), ("(0, +\\infty)", "x > 0")),
    "choice": box(("\\text{Option B}", "B"), ("(A)", "A"), ("\\textbf{(D)}~12", "D"), ("\\text{(B) } 15", "15"), ("A", "\\text{(A) } 3"), ("15", "\\textbf{(B)}\\ 15"), ("C. \\text{the second law}", "C"), ("\\mathbf{E}", "E"))
              + [("The correct option is **(D)**", "D"), ("So the correct answer is (B).", "B"), ("Option C is wrong.\nAnswer: A", "A"), ("The answer is (C) 40.", "C")],
    "colon": box(("6:8", "3:4"), ("9:30 \\text{ a.m.}", "9:30 AM"), ("2 : 3 : 5", "2:3:5"), ("4 \\text{ to } 9", "4:9"), ("4:6:10", "2:3:5"), ("15:20", "3:20 \\text{ p.m.}"), ("\\frac{3}{4}", "3:4")),
    "boxes": [("$a = \\boxed{3}$ and $b = \\boxed{11}$", "3, 11"), ("- $\\boxed{2}$\n- $\\boxed{6}$", "2, 6"), ("$\\boxed{1} \\quad \\boxed{8}$", "1, 8"), ("1. $x=\\boxed{2}$\n2. $x=\\boxed{-2}$", "-2, 2"), ("\\boxed{9}. So \\boxed{9}", "9"),
              ("First I tried \\boxed{4}. That fails. The answer is \\boxed{5}", "5"), ("The length is $\\boxed{3}$ and the width is $\\boxed{7}$.", "3, 7"), ("\\boxed{\\frac{6}{4}} = \\boxed{\\frac32}", "3/2")],
    "style": box(("\\bm{23}", "23"), ("\\color{blue}{23}", "23"), ("\\textcolor{red}{23}", "23"), ("\\Large 23", "23"), ("23 \\tag{4}", "23"), ("23 \\checkmark", "23"), ("23\\\\", "23"), ("\\begin{aligned} n &= 20 + 3 \\\\ &= 23 \\end{aligned}", "23"),
                 ("y³", "y^3"), ("1½", "\\frac32"), ("\\approx 23", "23"), ("±5", "5, -5"), ("2\u200b3", "23"), ("23<|im_end|>", "23"), ("\\mathbf{23}.", "23"), ("\\displaystyle{\\frac{1}{3}}", "\\frac13"), ("5 ⁄ 6".replace(" ⁄ ", "/"), "\\frac56"), ("≥ 4", "\\ge 4"), ("⅔", "\\frac{2}{3}")),
    "notation": box(("\\sin 30^\\circ", "\\frac12"), ("\\tan 45^{\\circ}", "1"), ("0.\\overline{3}", "\\frac13"), ("0.1666...", "\\frac16"), ("5pi", "5\\pi"), ("2**8", "256"), ("110 \\text{ (base 2)}", "110_2"), ("110_{\\text{two}}", "110_2"), ("x=2 \\\\ y=5", "x=2, y=5"),
                    ("g'(x)", "g'(x)"), ("sqrt(8)", "2\\sqrt2"), ("3*x + 1", "3x+1"), ("0.(45)", "\\frac{5}{11}"), ("2\\sin 60^\\circ", "\\sqrt{3}"), ("x^(1/2)", "\\sqrt{x}")) + [("We need 3 1/4 cups", "13/4")],
    "thinking": [(f"{a}a draft: \\boxed{{3}}{b}It is \\boxed{{8}}.", "8") for a, b in (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<reasoning>", "</reasoning>"))]
                + [("<|channel|>analysis<|message|>\\boxed{3}<|end|><|start|>assistant<|channel|>final<|message|>\\boxed{8}<|return|>", "8")],
    "types": [(8, "8"), (8.0, "8"), ("8", 8), (0.25, "1/4"), (-3, -3), ("\\boxed{2, 3}", [2, 3])],
    "words": box(("\\text{odd function}", "\\text{odd}"), ("\\text{Monday}", "\\text{monday}"), ("\\text{Ann and Bob}", "\\text{Bob and Ann}"), ("\\text{does not exist}", "\\text{DNE}"), ("\\text{Yes}", "\\text{yes}"), ("\\text{the circle}", "\\text{circle}"))
             + [("The answer is no, it does not.", "no")],
    "rounding": box(("3.14159265", "\\pi"), ("0.666667", "\\frac23"), ("1.41421356", "\\sqrt{2}"), ("4\\sqrt{2} \\approx 5.66", "4\\sqrt2"), ("4\\sqrt{2} \\approx 5.66", "5.66"), ("50\\%", "0.5"), ("1.0", "1")),
    "gold": [(B % "42", "2*21=<<2*21=42>>42\n#### 42"), (B % "7", "so \\boxed{7}"), (B % "2, 7", "Then $x$ is $\\boxed{2}$ or $\\boxed{7}$."), (B % "\\frac12", "$\\frac{1}{2}$"), (B % "3", ["3"]), (B % "5", "\\boxed{\\textbf{5}}")],
}

WRONG = {
    "point": box((".75", "75"), ("75", ".75"), (".5", "5"), ("0.05", ".5"), ("(.5, 25)", "(0.5, 0.25)"), ("-.2", "0.2"), (".60", "6")) + [("The answer is .9", "9")],
    "list": box(("7250", "7, 250"), ("7, 250", "7250"), ("120, 9", "8, 120"), ("30^\\circ, 140^\\circ", "30^\\circ, 150^\\circ"), ("1, 200", "1, 200, 3"), ("1200", "1, 200"), ("100, 200, 300", "100, 200, 301"), ("3, 3, 4", "3, 4, 4")),
    "equation": box(("f(1)=4, f(2)=5", "f(1)=3, f(2)=9"), ("P(10)=-3", "3"), ("y = 3x + 2", "y = 3x - 2"), ("x^2+y^2=5", "x^2+y^2=4"), ("\\lim_{x\\to 0} g(x) = 5", "6"), ("x^2+1=0", "x^2+4=0"), ("e^x=-1", "e^x=-2"), ("2x = 8", "8"), ("x = 4", "y = 4"),
                    ("f(3)=1", "f(2)=1"), ("0", "x - y = 0")),
    "unit": box(("7 \\text{ km}", "7 \\text{ m}"), ("7 \\text{ thousand}", "7"), ("7\\mathrm{i}", "7"), ("2\\mathrm{e}", "2"), ("7 \\text{ or more}", "7"), ("7 \\text{ is not the answer}", "7"), ("\\$7", "7 \\text{ cents}"), ("7 \\text{ J}", "7 \\text{ kJ}"), ("7 \\text{ rad}", "7^\\circ"),
                ("7 \\text{ dozen}", "7"), ("7 \\text{ m}^2", "7 \\text{ m}^3"), ("7 \\text{ seconds}", "7 \\text{ meters}"), ("€7", "\\$7"), ("7\\text{y}", "7"), ("7\\,\\mathrm{d}x", "7"), ("\\text{about twice } 7", "7"), ("7 \\text{ pairs or } 8", "7"), ("7 \\text{ halves}", "7"),
                ("7 \\text{ billion}", "7 \\text{ million}"), ("7 \\text{ kg}", "7 \\text{ g}"), ("7 \\text{ squared}", "7"), ("7\\text{ mL}", "7\\text{ L}")),
    "said": [("The answer is not 9.", "9"), ("The answer is at least 9.", "9"), ("The answer is between 8 and 9.", "9"), ("The answer is 8, not 9.", "9"), ("The answer is 9 or 10.", "9"), ("I cannot find it.", "9"), ("<answer>8</answer>", "9"), ("The answer is 9 dozen.", "9"),
             ("Answer: more than 9", "9"), ("The answer is $8$.\n\nThis answer is less than 9.", "9"), ("答案是 8，不是 9。", "9"), ("The final answer is either 9 or 3.", "9")],
    "name": box(("p+q = 92", "91"), ("(p,q) = (8,3)", "(3,8)"), ("x = 3 \\text{ and } y = 91", "91"), ("x + 1 = 91", "91"), ("x \\neq 91", "91"), ("g(5) = 2", "-2"), ("91 = 90", "91"), ("k \\ge 40", "40")),
    "set": box(("1 < x < 6", "[1, 6)"), ("x > 2", "(-\\infty, 2)"), ("0 \\le x \\le 5", "[0,4]"), ("x \\le -1 \\text{ and } x \\ge 1", "(-\\infty,-1]\\cup[1,\\infty)"), ("\\mathbb{R}", "\\emptyset"), ("x \\neq 3", "x \\neq 2"), ("[0,1) \\cup (3, 4)", "(3,4]\\cup[0,1)"),
               ("|x| < 3", "(-2,2)"), ("x < 5", "y < 5"), ("\\{0, 1\\}", "[0, 1]"), ("\\mathbb{Z}", "\\mathbb{R}"), ("(0,\\infty)", "[0,\\infty)"), ("-2 \\le x \\le \\sqrt{2}", "[-3,\\sqrt{2}]")),
    "choice": box(("(B) or (C)", "B"), ("A, B, C, D", "A"), ("\\text{(B) } 16", "15"), ("C", "\\textbf{(B)}\\ 15"), ("16", "\\textbf{(B)}\\ 15"), ("A: 3, B: 4", "A"), ("\\text{not B}", "B"), ("AB", "A"), ("\\text{A and B}", "B")) + [("The answer is a bigger number.", "A"), ("The correct option is (D), not (B).", "B")],
    "colon": box(("9:30", "6:20"), ("5:2:3", "2:3:5"), ("4:00", "7:00"), ("9:30 \\text{ a.m.}", "9:30 \\text{ p.m.}"), ("2:30:5", "3:5:2"), ("4:3", "3:4"), ("1:15", "2:30"), ("0.75", "3:4"), ("3:20", "3:02")),
    "boxes": [("\\boxed{1} \\boxed{2} \\boxed{3}", "3"), ("Either \\boxed{3} or \\boxed{4}", "4"), ("$a = \\boxed{3}$ and $b = \\boxed{11}$", "11"), ("It is \\boxed{3}, or perhaps \\boxed{4}", "4"), ("- $\\boxed{2}$\n- $\\boxed{6}$", "6"),
              ("I first got \\boxed{2}. That was wrong. It is \\boxed{6}", "2, 6"), ("\\boxed{5}, \\boxed{6}, \\boxed{7}", "5, 6"), ("So \\boxed{4}. No, wait: \\boxed{5}", "4")],
    "style": box(("\\bm{24}", "23"), ("\\color{blue}{32}", "23"), ("y²", "y^3"), ("1½", "\\frac12"), ("±5", "5"), ("2 3", "5"), ("\\begin{cases} x = 2 \\\\ y = 3 \\end{cases}", "(3,2)"), ("\\overline{AB}", "BA"), ("x₂", "x_1"), ("10⁵", "10^6"), ("\\begin{aligned} n &= 23 \\\\ &= 24 \\end{aligned}", "23")),
    "notation": box(("\\sin 30", "\\sin 30^\\circ"), ("\\cos 30^\\circ", "\\frac12"), ("0.\\overline{3}", "\\frac{3}{10}"), ("0.\\overline{45}", "0.4\\overline{5}"), ("5pi", "5"), ("2**8", "16"), ("110_3", "110_2"), ("6", "110_2"), ("x=2 \\\\ y=5", "x=5, y=2"), ("g''(x)", "g'(x)"), ("g'(x)", "g(x)"),
                    ("3 1/4", "3"), ("3 1/4", "31/4")) + [("We need 3 1/4 cups", "1/4")],
    "thinking": [("<thinking>\\boxed{8}</thinking>", "8"), ("[THINK]\\boxed{8}[/THINK] I do not know.", "8"), ("◁think▷\\boxed{8}", "8"), ("<think>\\boxed{8}</think>\\boxed{9}", "8"), ("<|channel|>analysis<|message|>\\boxed{8}<|end|>", "8"),
                 ("<|channel|>analysis<|message|>\\boxed{8}<|end|><|start|>assistant<|channel|>final<|message|>No idea.", "8"), ("\\boxed{8}</thinking> No idea.", "8")],
    "types": [(None, "8"), (8, "9"), (8.5, "8"), ("", 8), (True, "1"), ("\\boxed{2}", [2, 3])],
    "words": box(("\\text{odd}", "\\text{even}"), ("\\text{not convergent}", "\\text{convergent}"), ("\\text{Ann}", "\\text{Anne}"), ("\\text{Ann and Carl}", "\\text{Bob and Ann}"), ("\\text{no}", "\\text{yes}"), ("\\text{exists}", "\\text{does not exist}"), ("\\text{ba}", "\\text{ab}")),
    "rounding": box(("5.66", "4\\sqrt2"), ("4\\sqrt2", "5.66"), ("0.67", "\\frac23"), ("3.14", "\\pi"), ("\\frac{22}{7}", "\\pi"), ("1.41421", "1.41422"), ("\\pi \\approx 3.14", "3.15"), ("0.5", "50")),
    "gold": [(B % "21", "2*21=<<2*21=42>>42\n#### 42"), (B % "8", "so \\boxed{7}"), (B % "2", "Then $x$ is $\\boxed{2}$ or $\\boxed{7}$."), (B % "2", "$\\frac{1}{2}$"), (B % "3", ""), (B % "4", ["3"])],
}
