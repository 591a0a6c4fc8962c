"""The pages of a run, from its records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import events
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.output.live_page import LivePage
from byzpy_tw.records.schema import STATES, parse_record, refusal_state
from byzpy_tw.records.summary import RoundCounts
from byzpy_tw.report.downsample import COLUMNS
from byzpy_tw.report.history import SHOWN, RoundHistory
from byzpy_tw.report.html import SCRIPTS, read_asset, script_json, standalone_page
from byzpy_tw.report.load import begin, read
from byzpy_tw.report.page import REPORT, render_report, write_report
from byzpy_tw.report.setting import Setting
from byzpy_tw.rounds.round import Reason
from tests.recorded_runs import HTML, record, records, refused, run_report
from tests.support import folder


def history(rounds: int = 100, honest: int = 4, byzantine: int = 2) -> RoundHistory:
    return RoundHistory(honest, byzantine, rounds)


class HistoryTests(SynchronousTestCase):
    def test_strips(self) -> None:
        """A letter and a share for each node and column, by what it came to."""
        told = history()
        told.add(record(0))
        told.add(record(1, **refused(2, "late")))
        told.add(record(2, **refused(5, "not-finite")))
        self.assertEqual(
            told.strips(),
            [(0, "sss", "000", "000"), (1, "sss", "000", "000"), (2, "sts", "090", "000"),
             (3, "sss", "000", "000"), (4, "sss", "000", "000"), (5, "xsr", "909", "000")],
        )  # fmt: skip
        self.assertEqual(dict(told.counts.refused[2]), {"late": 1})
        self.assertEqual(told.totals[5].tolist(), [1, 1, 1, 0, 0, 0, 0, 0])

    def test_some_take_part(self) -> None:
        """A node that was not asked has a letter of its own; shares are of the rounds asked."""
        told = history()
        told.add(record(0))
        told.add(record(1, participants=[0, 1, 2, 3, 4], excluded=[]))
        strips = {node: letters for node, letters, *_ in told.strips()}
        self.assertEqual((strips[0], strips[5]), ("ss", "xn"))
        self.assertEqual(told.totals[5].tolist(), [0, 1, 0, 0, 0, 0, 0, 1])
        self.assertEqual([told.counts.rounds_asked(node) for node in (0, 5)], [2, 1])

    def test_replaced(self) -> None:
        """A node whose place another took has a letter of its own, whatever kept it away."""
        told = history()
        gone = [{"node": node, "reason": reason, "detail": ""} for node, reason in
                ((1, "late"), (2, "lost"), (4, "failed"))]  # fmt: skip
        pairs = [{"node": 4, "by": 5}, {"node": 1, "by": 3}]
        told.add(record(0, participants=[0, 1, 2, 3, 4, 5], selected=[0, 3], refused=gone,
                        replaced=pairs))  # fmt: skip
        self.assertEqual([letters for _, letters, *_ in told.strips()],
                         ["s", "e", "l", "s", "e", "x"])  # fmt: skip
        self.assertEqual(told.totals[4].tolist(), [0, 0, 0, 0, 0, 0, 1, 0])

    def test_a_column_of_some(self) -> None:
        """In a column of several rounds, those without the node are left out of its shares."""
        told = history(rounds=2000)
        for number in range(1024):
            asked = [0, 1, 2, 3, 4, 5] if number % 2 else [0, 1, 2, 3, 4]
            told.add(record(number, participants=asked, excluded=[5] if number % 2 else []))
        _, letters, digits, _ = told.strips()[5]
        self.assertEqual((letters[0], digits[0]), ("x", "9"))

    def test_every_reason_has_a_state(self) -> None:
        """None of a node's ends is taken for another's; one of a later version is refused."""
        found = {reason: STATES[refusal_state(reason.value)] for reason in Reason}
        self.assertEqual(found[Reason.LATE], "late")
        self.assertEqual(found[Reason.LOST], "lost")
        self.assertEqual(found[Reason.PROBATION], "probation")
        self.assertEqual(found[Reason.NOT_ASKED], "not-asked")
        rest = set(Reason) - {Reason.LATE, Reason.LOST, Reason.PROBATION, Reason.NOT_ASKED}
        self.assertEqual({found[reason] for reason in rest}, {"refused"})
        self.assertEqual(STATES[refusal_state("tired")], "refused")

    def test_long_runs_are_bounded(self) -> None:
        """However many rounds, there are at most so many columns, and none is forgotten."""
        told = history(rounds=10)  # more come than were planned
        for each in records(3000):
            told.add(each)
        self.assertEqual((told.done, told.width, told.columns), (3000, 8, 375))
        self.assertLessEqual(told.columns, COLUMNS)
        self.assertEqual({len(letters) for _, letters, *_ in told.strips()}, {375})
        # 3000 rounds, of which those with a late node 2 are 3, 10, 17, ...
        self.assertEqual(told.totals[2][STATES.index("late")], 429)
        self.assertEqual(told.strips()[2][1].count("t"), 375)  # one in each column at least
        losses = told.series["loss"].plain(told.columns)
        self.assertEqual(losses["high"][0], 2.0)
        self.assertEqual(losses["low"][0], 0.25)
        self.assertAlmostEqual(losses["mean"][0], sum(2 / (1 + i) for i in range(8)) / 8, 4)

    def test_a_refusal_is_not_hidden(self) -> None:
        """One among many exclusions in a column still has its letter, and both their share."""
        told = history(rounds=2000)
        for number in range(1024):
            more = refused(5, "lost") if number == 0 else {}
            told.add(record(number, **more))
        self.assertEqual(told.width, 2)
        _, letters, digits, excluded = told.strips()[5]
        self.assertEqual((letters[:2], digits[:2], excluded[:2]), ("lx", "59", "50"))

    def test_many_nodes_are_bounded(self) -> None:
        """A run of very many nodes shows a bounded number of strips, of both kinds; all are
        counted."""
        told = history(1, honest=5000, byzantine=5000)
        told.add(record(0, selected=None, excluded=[], refused=[
            {"node": 9999, "reason": "lost", "detail": ""}]))  # fmt: skip
        self.assertEqual(len(told.strips()), SHOWN)
        self.assertEqual({node < 5000 for node, *_ in told.strips()}, {True, False})
        self.assertEqual(told.totals[9999][STATES.index("lost")], 1)

    def test_what_is_not_finite_is_a_gap(self) -> None:
        """A loss that was not finite, null on disk, leaves a hole in its curve."""
        told = history()
        for number, loss in enumerate((1.0, None, float("nan"), float("inf"), 3.0)):
            told.add(record(number, loss=loss))
        self.assertEqual(told.series["loss"].plain(5)["mean"], [1.0, None, None, None, 3.0])

    def test_refuses_what_is_no_record(self) -> None:
        """Nodes that there are not, figures that are none."""
        for wrong in (
            {"excluded": [6]}, {"excluded": [-1]}, {"excluded": ["0"]}, {"loss": "low"},
            {"refused": [{"node": 10**9, "reason": "late"}]}, {"refused": [{}]},
            {"phases": {"honest": []}}, {"selected": 3}, {"loss": 10**400},
            {"participants": [6]}, {"participants": []}, {"participants": [1, 0]},
            {"participants": [0, 0, 1, 2, 3, 4, 5]}, {"participants": [0, 1, 2]},
            {"participants": [0, 1, 2, 3, 5], **refused(4, "late")},
            {"replaced": [{"node": 1}]}, {"replaced": {}}, {"unseen": [6]}, {"unseen": 1},
            {"participants": [0, 1, 2, 3, 4], "replaced": [{"node": 1, "by": 5}]},
            {"participants": [0, 1, 2, 3, 4], "unseen": [5]},
        ):  # fmt: skip
            with self.assertRaises(ValueError):
                parse_record(json.dumps(record(0, **wrong)), 0, 6)


class ConclusionTests(SynchronousTestCase):
    def concluded(self, *rounds: dict[str, Any], **options: Any) -> str:
        options = {"num_honest": 4, "num_byz": 1, **options}
        config = RunConfig(in_process=True, rounds=100, **options)
        told = begin("run", config.to_dict())
        for each in rounds:
            told.add(each)
        told.status = "finished"
        return " ".join(told.conclusion)

    def test_who_was_excluded(self) -> None:
        """The sentence that the whole run is about."""
        rounds = [record(i, selected=[0, 1, 2, 3], excluded=[4]) for i in range(97)]
        rounds += [record(i, selected=[0, 1, 3, 4], excluded=[2]) for i in range(97, 100)]
        self.assertEqual(
            self.concluded(*rounds),
            "multi-krum excluded the Byzantine node in 97 of 100 rounds, honest node 2 in 3.",
        )

    def test_a_rule_that_follows_equal_vectors(self) -> None:
        """Most Byzantine vectors were rejected, and all of the weight was theirs."""
        rounds = [
            record(i, selected=[4 + i % 3], excluded=[n for n in range(7) if n != 4 + i % 3],
                   byzantine_weight=1.0)
            for i in range(3)
        ]  # fmt: skip
        said = self.concluded(*rounds, num_byz=3, f=3, aggregator="krum")
        self.assertIn("Byzantine nodes, 3 of 7, had 100.0% of the weight in the aggregates.", said)
        self.assertNotIn("weight", self.concluded(record(0, excluded=[])))

    def test_no_honest_node(self) -> None:
        """It is worth a word that nobody was wronged."""
        said = self.concluded(record(0, selected=[0, 1, 2, 3], excluded=[4]))
        self.assertEqual(
            said, "multi-krum excluded the Byzantine node in 1 of 1 round, no honest node."
        )

    def test_refused_throughout(self) -> None:
        """A node that was always refused was never the rule's to exclude."""
        gone = {"node": 4, "reason": "not-finite", "detail": ""}
        said = self.concluded(record(0, selected=[0, 1, 2], excluded=[3], refused=[gone]))
        self.assertEqual(
            said,
            "multi-krum excluded honest node 3 in 1 of 1 round. "
            "Byzantine node 4 was refused in 1 (not-finite 1).",
        )

    def test_absent(self) -> None:
        """A node whose server was away did nothing to be refused for."""
        gone = {"node": 4, "reason": "lost", "detail": ""}
        said = self.concluded(record(0, selected=[0, 1, 2, 3], excluded=[], refused=[gone]))
        self.assertIn("Byzantine node 4 was absent in 1 of 1 round (its server was away).", said)
        self.assertNotIn("refused", said)

    def test_a_rule_that_takes_few(self) -> None:
        """A report on Krum says which node it took."""
        said = self.concluded(
            record(0, selected=[4], excluded=[0, 1, 2, 3]),
            record(1, selected=[0], excluded=[1, 2, 3, 4]),
            aggregator="krum",
        )
        self.assertEqual(
            said,
            "krum took the Byzantine node in 1 of 2 rounds, 0.5 honest nodes a round.",
        )

    def test_some_take_part(self) -> None:
        """Where not all nodes take part, vectors are counted, and refusals of rounds asked."""
        late = {"node": 1, "reason": "late", "detail": ""}
        rounds = [
            record(0, participants=[0, 1, 4], selected=[0, 1], excluded=[4]),
            record(1, participants=[1, 2, 3], selected=[2, 3], excluded=[], refused=[late]),
            record(2, participants=[2, 3, 4], selected=[3, 4], excluded=[2]),
        ]
        self.assertEqual(
            self.concluded(*rounds),
            "multi-krum excluded 1 of 2 Byzantine vectors and 1 of 6 honest vectors. Honest node 1 "
            "was refused in 1 of the 2 rounds that it took part in (late 1).",
        )
        few = self.concluded(
            record(0, participants=[0, 1, 2, 4], selected=[0], excluded=[1, 2, 4]),
            aggregator="krum",
        )  # fmt: skip
        self.assertEqual(few, "krum took 0 of 1 Byzantine vectors and 1 of 3 honest vectors.")

    def test_a_rule_that_does_not_choose(self) -> None:
        """The nodes that a trimmed mean used are not named: nobody knows them."""
        said = self.concluded(record(0, selected=None, excluded=[]), aggregator="trimmed-mean")
        self.assertEqual(
            said,
            "trimmed-mean treats each coordinate by itself, or tells no weights: which nodes "
            "counted is not recorded.",
        )
        told = run_report(rounds=1)
        self.assertTrue(told.plain()["rounds"]["chooses"])
        told.history = history()
        self.assertTrue(told.plain()["rounds"]["chooses"])  # of a page before its first round
        told.add(record(0, selected=None, excluded=[]))
        self.assertFalse(told.plain()["rounds"]["chooses"])

    def test_near_chance(self) -> None:
        """It is said where the task tells chance, of the last value."""
        told = begin("run", RunConfig(in_process=True, num_honest=4, num_byz=2).to_dict())
        told.add(record(0, test_loss=2.3, accuracy=0.17))
        self.assertNotIn("chance", " ".join(told.conclusion))
        told.history.chance = {"accuracy": 0.114}
        self.assertIn(
            "Accuracy 17.00% after 1 round: accuracy is near chance (11.40%).", told.conclusion
        )
        told.add(record(1, test_loss=2.0, accuracy=0.21))
        self.assertNotIn("chance", " ".join(told.conclusion))

    def test_several_byzantine_nodes(self) -> None:
        """Each, where they are few; the span, where they are many."""
        few = self.concluded(
            record(0, selected=[0, 1, 2, 3], excluded=[4, 5]),
            record(1, selected=[0, 1, 2, 3, 5], excluded=[4]), num_byz=2, f=2,
        )  # fmt: skip
        self.assertIn("the Byzantine nodes in 2 (node 4) and 1 (node 5) of 2 rounds", few)
        many = self.concluded(record(0, selected=[0, 1, 2, 3, 8], excluded=[4, 5, 6, 7]),
                              num_byz=5, f=4)  # fmt: skip
        self.assertIn("the 5 Byzantine nodes in 0 to 1 of 1 round", many)

    def test_how_it_ended(self) -> None:
        """A run that came to no good end says so, and why."""
        told = run_report(rounds=3)
        told.status, told.error = "paused", "round 3: 2 of n = 6 nodes failed."
        self.assertEqual(
            told.conclusion[-1],
            "The run paused after 3 of 3 rounds: round 3: 2 of n = 6 nodes failed.",
        )
        empty = run_report(rounds=1)
        empty.history = history()
        empty.status, empty.error = "failed", None
        self.assertEqual(empty.conclusion, ["No round was completed.", "The run failed."])


SAMPLE = {
    "participants": 4, "over_sample": 1, "f": 1, "confidence": 0.99, "excess": 0.0054,
    "sufficient": True,
}  # fmt: skip
WEIGHTS = {
    "sha256": "0" * 64, "largest": 0.4, "smallest": 0.05,
    "shares": [0.4, 0.1, 0.1, 0.1, 0.25, 0.05],
}  # fmt: skip


class SettingTests(SynchronousTestCase):
    """The samples and weights of a run with 4 honest nodes and 2 Byzantine ones."""

    def sentences(self, description: Any, *rounds: dict[str, Any], n: int = 6) -> str:
        counts = RoundCounts(4, 2)
        for each in rounds:
            counts.add(each)
        options = {"f": 2, "weights": "sites.csv"}
        return " ".join(Setting.of(description, n).sentences(options, counts))

    def test_sample(self) -> None:
        """Its size, its budget with the probability, and how often the run exceeded it."""
        told = (
            "4 of 6 nodes are asked in a round, and up to 1 more in the place of absent ones. The "
            "rules have f = 1: of the 2 faulty nodes that there may be, some round draws more with "
            "probability 0.0054."
        )
        self.assertEqual(self.sentences({"sampling": SAMPLE}), told)
        gone = [{"node": 5, "reason": "late", "detail": ""}]
        within = [
            record(0, participants=[0, 1, 2, 5]),
            record(1, participants=[0, 1, 4, 5], refused=gone),
        ]
        self.assertEqual(
            self.sentences({"sampling": SAMPLE}, *within),
            f"{told} In this run no round had more Byzantine vectors than that.",
        )
        beyond = record(2, participants=[0, 1, 4, 5])
        self.assertIn(
            "In this run 1 of 3 rounds had more", self.sentences({"sampling": SAMPLE}, *within,
                                                                 beyond)
        )  # fmt: skip
        none = self.sentences({"sampling": {**SAMPLE, "excess": 0.0}}, *within)
        self.assertTrue(none.endswith("f = 1: no round can draw more faulty nodes."), none)
        bad = {**SAMPLE, "sufficient": False, "over_sample": 0}
        self.assertIn("4 of 6 nodes are asked in a round.", self.sentences({"sampling": bad}))
        self.assertIn("is no guarantee at --confidence 0.99.", self.sentences({"sampling": bad}))

    def test_delayed_momentum(self) -> None:
        kept = {"participants": 2, "over_sample": 0, "f": 2}
        self.assertEqual(
            self.sentences({"sampling": kept}, record(0, participants=[4, 5])),
            "2 of 6 nodes are asked in a round. The last vectors of all nodes are aggregated, with "
            "f = 2.",
        )

    def test_weights(self) -> None:
        """The span, the heaviest, and what the Byzantine nodes have; also without a list."""
        told = "Nodes have from 5 % to 40 % of the weight (--weights sites.csv)"
        self.assertEqual(
            self.sentences({"weights": WEIGHTS}),
            f"{told}; the 2 heaviest have 65 %, the Byzantine nodes 30 %.",
        )
        self.assertEqual(self.sentences({"weights": {**WEIGHTS, "shares": None}}), f"{told}.")

    def test_damaged(self) -> None:
        """An entry that is none of a run's is left out."""
        wrongs: tuple[dict[str, Any], ...] = (
            {}, {"sampling": 3}, {"sampling": {**SAMPLE, "f": "1"}}, {"weights": [1]},
            {"weights": {**WEIGHTS, "largest": "x"}}, {"sampling": {**SAMPLE, "f": True}},
        )  # fmt: skip
        for wrong in wrongs:
            self.assertEqual(self.sentences(wrong), "", wrong)
        self.assertEqual(Setting.of({"weights": WEIGHTS}, 7).shares, ())
        odd = self.sentences({"sampling": {**SAMPLE, "excess": 2, "confidence": None}})
        self.assertIn("4 of 6 nodes", odd)

    def test_live(self) -> None:
        """A page of a run under way has them from its start."""
        config = RunConfig(in_process=True, num_honest=4, num_byz=2, f=2)
        live = LivePage(begin("run", config.to_dict()), Clock())
        self.assertEqual(json.loads(live.data("", "w")[1])["setting"], [])
        live.handle(events.RunStarted({"sampling": SAMPLE}, []))
        self.assertIn("4 of 6 nodes", live.run_report.plain()["setting"][0])

    def test_nodes(self) -> None:
        """Each node is shown with its share, where shares are known."""
        told = run_report(rounds=3)
        self.assertEqual({node["weight"] for node in told.plain()["nodes"]}, {None})
        told.setting = Setting.of({"weights": WEIGHTS}, 6)
        self.assertEqual([node["weight"] for node in told.plain()["nodes"]], WEIGHTS["shares"])


class StandaloneTests(SynchronousTestCase):
    def test_nothing_breaks_out(self) -> None:
        """Names with markup are JSON that holds no markup, and escaped where they are text."""
        page = render_report([run_report(HTML)])
        self.assertNotIn("<img", page)
        self.assertEqual(page.count("<script"), 4)  # the data, uPlot, and two of ours
        [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
        self.assertEqual(json.loads(data)["name"], HTML)

    def test_in_script(self) -> None:
        """Whatever the text, no parser of HTML finds an end or a comment in it."""
        for text in ("</script>", "<!--", "]]>", "&lt;", "\u2028", "\ud800", '"\\'):
            made = script_json({"name": text})
            self.assertNotRegex(made, "[<>&\u2028\ud800]")
            self.assertEqual(json.loads(made)["name"], text)

    def test_takes_nothing_from_a_network(self) -> None:
        """No address is in it, and its policy lets nothing in but what it holds."""
        page = standalone_page("t", {"a": 1})
        self.assertIn("default-src 'none'; script-src 'sha256-", page)
        addresses = set(re.findall(r"https?://([^\s\"'<>)/]+)", page))
        self.assertEqual(addresses, {"www.w3.org", "github.com"})  # names, and uPlot's notice
        self.assertIn("The MIT License", page)
        self.assertNotRegex(page, r"<(link|script|img)[^>]+(src|href)=\"(?!data:)")

    def test_scripts_make_no_html(self) -> None:
        """There is nothing in them that parses text as HTML or as code."""
        parsers = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\("
        for name in (*SCRIPTS, "sweep.js"):
            self.assertNotRegex(read_asset(name), parsers)


class ReadingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = folder(self) / "run"
        self.path.mkdir()
        config = RunConfig(in_process=True, num_honest=4, num_byz=2, rounds=10)
        self.write("config.json", {
            "config": config.to_dict(), "placement": {"tcp://a:1": [0, 1, 2, 3, 4, 5]},
            "versions": {"torch": "2.4"}, "chance": {"accuracy": 0.1},
        })  # fmt: skip

    def write(self, name: str, *values: Any) -> None:
        lines = [v if isinstance(v, str) else json.dumps(v) for v in values]
        (self.path / name).write_text("\n".join(lines) + "\n" * bool(lines))

    def test_a_run_that_was_killed(self) -> None:
        """Without a result, and with half a line: what is whole is told, and what is not."""
        self.write("rounds.jsonl", record(0), record(1), '{"round": 2, "sec')
        told = read(self.path)
        self.assertEqual((told.status, told.history.done), ("unfinished", 2))
        self.assertEqual(told.history.chance, {"accuracy": 0.1})
        self.assertIn("Line 3 of rounds.jsonl is no whole record of round 2", told.note)
        self.assertIn("has not come to an end after 2 of 10 rounds", told.conclusion[-1])

    def test_no_rounds_at_all(self) -> None:
        """A run that failed before its first round has a report, which says why."""
        self.write("result.json", {"status": "failed", "error": "no server there"})
        self.assertEqual(write_report(self.path), self.path / REPORT)
        self.assertIn("The run failed: no server there.", (self.path / REPORT).read_text())

    def test_where_nodes_live(self) -> None:
        """At the start, and from each record on that says otherwise."""
        self.write("rounds.jsonl", record(0))
        self.assertEqual([(p.name, p.nodes) for p in read(self.path).servers],
                         [("tcp://a:1", [0, 1, 2, 3, 4, 5])])  # fmt: skip
        moved = record(1, placement={"tcp://b:1": [0, 1]}, events=["tcp://a:1 is lost"])
        self.write("rounds.jsonl", record(0), moved, record(2))
        told = read(self.path)
        self.assertEqual([(p.name, p.nodes) for p in told.servers], [("tcp://b:1", [0, 1])])
        self.assertEqual(told.plain()["events"], [[1, "tcp://a:1 is lost"]])

    def test_damage_is_told(self) -> None:
        """Whatever stands in its files, a folder gives a story or a `RunDirectoryError`."""
        for lines in (["[]"], ["{}"], ["null"], ['{"round": 0}'], ["[" * 100_000], ["\0"],
                      [record(1)], [record(0, phases=[])], [record(0, events=3)]):  # fmt: skip
            self.write("rounds.jsonl", *lines)
            self.assertIn("Line 1 of rounds.jsonl", read(self.path).note)
        for wrong in ({"seconds": "x"}, {"refused": 3}, {"accuracy": 1}, {"excluded": [6]}):
            self.write("rounds.jsonl", record(0), record(1, **wrong))
            self.assertIn("Line 2 of rounds.jsonl", read(self.path).note)
        infinite = json.dumps(record(0)).replace("0.06", "1e400", 1)
        for line in (infinite, infinite.replace("1e400", "9" * 400)):
            self.write("rounds.jsonl", line)
            self.assertIn("(it is not JSON: ", read(self.path).note)
        good = json.loads((self.path / "config.json").read_text())
        named = json.dumps({**good, "metrics": [{"name": "loss"}]})
        for config in (named, "", "[]", "{}", '{"config": []}', '{"config": {}}', "[" * 100_000,
                       '{"config": {"num_honest": 1e9, "num_byz": 0, "rounds": 1}}',
                       '{"config": {"num_honest": 2000000000, "num_byz": 0, "rounds": 1}}',
                       '{"config": {"num_honest": 0, "num_byz": 0, "rounds": 1}}'):  # fmt: skip
            self.write("config.json", config)
            with self.assertRaises(RunDirectoryError):
                read(self.path)

    def test_figures_of_hundreds_of_digits(self) -> None:
        """A result that has them is refused in one line; a story that does leaves them out."""
        self.write("result.json", '{"status": "finished", "best_accuracy": ' + "9" * 400 + "}")
        with self.assertRaisesRegex(RunDirectoryError, "result.json: a number of 400 digits"):
            read(self.path)
        told = run_report(rounds=1)
        told.result = {"best_accuracy": 10**400, "worst_accuracy": True, "seconds": 3}
        data = told.plain()
        [metric] = data["metrics"]
        found = metric["best"], metric["worst"], data["figures"]["seconds"]
        self.assertEqual(found, (None, None, 3.0))

    def test_words_from_a_record(self) -> None:
        """Words from a damaged record can stand on a terminal."""
        self.write("rounds.jsonl", record(0, excluded=["\x1b]0;PWNED\x07\x1b[31mred\u202e"]))
        note = read(self.path).note
        self.assertIn("PWNED", note)
        self.assertTrue(note.isprintable(), note)

    def test_no_run(self) -> None:
        """An error that says what to name."""
        with self.assertRaisesRegex(RunDirectoryError, "holds no run .*runs/DATE-TIME"):
            read(Path(folder(self)))
