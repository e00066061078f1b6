"""Go's text/template: what people write in --format and in specs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.model.template import OUTPUT_LENGTH_MAX, STEPS_MAX, TemplateError, compile

SERVICE = {
    "ID": "abc",
    "Spec": {"Name": "web", "Labels": {"zone": "a", "tier": "front"}, "Replicas": 3},
    "Ports": [80, 443],
    "Empty": [],
    "Ratio": 0.5,
    "Big": 5000000000,
    "On": True,
    "None": None,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{{.ID}}", "abc"),
        ("{{ .Spec.Name }}!", "web!"),
        ("{{$.Spec.Name}}", "web"),
        ("{{.Big}} {{.Ratio}} {{.On}}", "5000000000 0.5 true"),
        ("{{.Ports}}", "[80 443]"),
        ("{{.Spec.Labels}}", "map[tier:front zone:a]"),
        ('{{index .Spec.Labels "zone"}}', "a"),
        ('{{index .Spec.Labels "none"}}', ""),
        ("{{index .Ports 1}}", "443"),
        ('{{join .Ports ", "}}', "80, 443"),
        ('{{join "-" "a" "b"}}', "a-b"),
        ("{{json .Spec.Labels}}", '{"zone":"a","tier":"front"}'),
        ("{{.ID | upper | printf `%s-%s` `x`}}", "x-ABC"),
        ('{{lower "ABC"}}{{title "two words"}}', "abcTwo Words"),
        ("{{len .Ports}}{{len .ID}}{{len .Spec}}", "233"),
        ("{{print (print)}}{{len print}}", "0"),
        ('{{printf "%-5s|%3d|%q|%v|%%" "ab" 7 "q" .Ports}}', 'ab   |  7|"q"|[80 443]|%'),
        ('{{println "a" 1}}', "a 1\n"),
        ('{{print 1 2 "a" "b" 3}}', "1 2ab3"),
        ('{{"a\\tb\\"c\\u00e9"}}{{`raw\\n`}}', 'a\tb"cé' + "raw\\n"),
        ("a {{- .ID -}} b", "aabcb"),
        ("a {{/* nothing */}}b", "a b"),
        ("a {{- /* nothing */ -}} b", "ab"),
        ("{{-3}}", "-3"),
        ("{{(index .Ports 0)}}", "80"),
        ("{{(index .Spec `Labels`).zone}}", "a"),
    ],
)
def test_template_renders_values(text, expected):
    assert compile(text).render(SERVICE) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{if .On}}yes{{else}}no{{end}}", "yes"),
        ("{{if .Empty}}yes{{else}}no{{end}}", "no"),
        ("{{if .None}}yes{{end}}", ""),
        ("{{if eq .ID `x`}}x{{else if eq .ID `abc`}}abc{{else}}none{{end}}", "abc"),
        ("{{with .Spec}}{{.Name}}{{end}}", "web"),
        ("{{with .Empty}}{{.}}{{else}}{{.ID}}{{end}}", "abc"),
        ("{{with $x := .Spec.Name}}{{$x}}{{.}}{{end}}", "webweb"),
        ("{{range .Ports}}<{{.}}>{{end}}", "<80><443>"),
        ("{{range $i, $p := .Ports}}{{$i}}={{$p}} {{end}}", "0=80 1=443 "),
        ("{{range $k, $v := .Spec.Labels}}{{$k}}={{$v}};{{end}}", "tier=front;zone=a;"),
        ("{{range $v := .Ports}}{{$v}},{{end}}", "80,443,"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{$n := 1}}{{range .Ports}}{{$n = .}}{{end}}{{$n}}", "443"),
        ("{{$n := 1}}{{if .On}}{{$n := 2}}{{$n}}{{end}}{{$n}}", "21"),
        ("{{range .Ports}}{{range $.Ports}}{{.}}{{end}};{{end}}", "80443;80443;"),
    ],
)
def test_template_branches_and_repeats(text, expected):
    assert compile(text).render(SERVICE) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eq 1 1", "true"),
        ("eq 1 2 1", "true"),
        ("eq 1 true", "false"),
        ("ne `a` `b`", "true"),
        ("lt 1 2", "true"),
        ("le 2 2", "true"),
        ("gt `b` `a`", "true"),
        ("ge 1 2", "false"),
        ("and 1 0 .Missing", "0"),
        ("or 0 `x` .Missing", "x"),
        ("or 0 ``", ""),
        ("1 | or 0", "1"),
        ("not .On", "false"),
        ("1 | eq 1 | not", "false"),
        ("and (eq .ID `abc`) (gt .Ratio 0.1)", "true"),
    ],
)
def test_template_compares(text, expected):
    assert compile("{{" + text + "}}").render(SERVICE) == expected


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("{{.ID", "line 1, column 3", "never closed"),
        ("a\n{{end}}", "line 2, column 3", "unexpected end"),
        ("{{if .ID}}x", "line 1, column 12", "never closed with {{end}}"),
        ("{{if}}x{{end}}", "line 1, column 5", "a value is missing"),
        ("{{nope .ID}}", "line 1, column 3", "no function 'nope'"),
        ("{{template `x`}}", "line 1, column 3", "template is not supported"),
        ("{{.ID .Spec}}", "line 1, column 7", "only a function takes arguments"),
        ("{{(.ID}}", "line 1, column 3", "parenthesis"),
        ("{{.ID | )}}", "line 1, column 9", "a value is missing"),
        ("{{) .ID}}", "line 1, column 3", "a value is missing"),
        ("{{if .ID)}}{{end}}", "line 1, column 9", "unexpected ')'"),
        ("{{, .ID}}", "line 1, column 3", "unexpected ','"),
        ("{{.ID ~}}", "line 1, column 7", "unexpected '~'"),
        ("{{if .ID}}{{else}}{{else}}{{end}}", "line 1, column 21", "unexpected else"),
        ('{{"unclosed}}', "line 1, column 3", "unexpected"),
    ],
)
def test_template_says_where_it_is_wrong(text, place, problem):
    with pytest.raises(TemplateError) as caught:
        compile(text)
    assert place in caught.value.message
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{.Nope}}", "there is no field .Nope"),
        ("{{.ID.Name}}", "has no field .Name"),
        ("{{$x}}", "$x is not declared"),
        ("{{index .Ports 2}}", "out of range"),
        ("{{index .ID 0}}", "neither a list nor a map"),
        ("{{range .ID}}{{end}}", "needs a list or a map"),
        ("{{upper 1}}", "no text"),
        ("{{lt 1 `a`}}", "have no order"),
        ("{{printf `%d` .ID}}", "needs a number"),
        ("{{printf `%s`}}", "no value for %s"),
        ("{{printf `%z` 1}}", "%z is not known"),
        ("{{printf `%99999s` 1}}", "wider than"),
        ("{{.ID | .Spec}}", "piped"),
        ("{{and}}", "needs an argument"),
        ("{{index .Ports `a`}}", "no position in a list"),
        ("{{join}}", "a list and a separator"),
        ("{{join 1 `a`}}", "the separator must be a text"),
        ("{{len 1}}", "has no length"),
        ("{{printf `x` 1}}", "1 more values than verbs"),
        ("{{eq 1}}", "two values are needed"),
        ("{{(upper `a`).X}}", "has no field .X"),
        ("{{upper.X `a`}}", "upper has no fields"),
        ("{{range .None}}x{{else}}{{.Nope}}{{end}}", "there is no field .Nope"),
    ],
)
def test_template_says_what_does_not_fit_the_data(text, problem):
    with pytest.raises(TemplateError) as caught:
        compile(text).render(SERVICE)
    assert problem in caught.value.message


def test_missing_key_prints_no_value_where_it_is_lenient():
    assert compile("{{.Nope.Deeper}}", is_lenient=True).render(SERVICE) == "<no value>"


def test_nesting_is_bounded():
    for text in ("{{if 1}}" * 200 + "{{end}}" * 200, "{{" + "(" * 200 + "1" + ")" * 200 + "}}"):
        with pytest.raises(TemplateError, match="in each other"):
            compile(text)


def test_work_and_output_are_bounded():
    many = {"L": [0] * 1000, "T": "x" * 10_000}
    with pytest.raises(TemplateError, match=f"more than {STEPS_MAX} steps"):
        compile("{{range .L}}{{range $.L}}{{end}}{{range $.L}}y{{end}}{{end}}").render(many)
    with pytest.raises(TemplateError, match=f"more than {OUTPUT_LENGTH_MAX} characters"):
        compile("{{range .L}}{{$.T}}{{end}}").render(many)


@pytest.mark.parametrize(
    "text",
    [
        '{{$a := "0123456789"}}' + "{{$a = printf `%s%s` $a $a}}" * 40,
        '{{$a := "0123456789"}}' + "{{$a = print $a $a}}" * 40,
        '{{$a := "0123456789"}}' + "{{$a = println $a $a}}" * 40,
        '{{$a := "0123456789"}}' + "{{$a = join $a $a $a $a}}" * 40,
        '{{"\\""' + "|printf `%q`" * 40 + "}}",
        "{{range .L}}{{range $.L}}{{$x := upper $.T}}{{end}}{{end}}",
    ],
)
def test_texts_that_functions_make_are_bounded(text):
    with pytest.raises(TemplateError, match=r"more than \d+ characters"):
        compile(text).render({"L": [0] * 1000, "T": "x" * 10_000})


@pytest.mark.parametrize(
    "text",
    [
        "{{range .L}}{{range $.L}}{{end}}{{end}}",
        "{{range .L}}{{$x := (eq 1 1)}}" + "{{$x = (eq 1 (len (upper `a`)))}}" * 100 + "{{end}}",
    ],
)
def test_rounds_and_calls_are_steps(text):
    with pytest.raises(TemplateError, match=f"more than {STEPS_MAX} steps"):
        compile(text).render({"L": [0] * 1000})


@pytest.mark.parametrize("number", ["9" * 5_000, "-" + "1" * 10_000])
def test_number_of_thousands_of_digits_is_refused(number):
    with pytest.raises(TemplateError, match="the number is too long"):
        compile(f"{{{{{number}}}}}")


@pytest.mark.parametrize("verb", ["%d", "%x"])
def test_infinite_number_is_refused(verb):
    with pytest.raises(TemplateError, match="infinity"):
        compile(f"{{{{printf `{verb}` 1e999}}}}").render({})


@given(st.text(alphabet='{}.$-|()"` \n:=,x1iefndrag%', max_size=60))
def test_any_text_compiles_and_renders_or_is_refused_with_a_place(text):
    try:
        compile("{{" + text).render({"x": [1, {"f": None}]})
    except TemplateError as error:
        assert "line" in error.message  # noqa: PT017 - most of these texts are wrong, some are right


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_json_of_a_value_is_its_json(value):
    import json

    assert json.loads(compile("{{json .V}}").render({"V": value})) == value
