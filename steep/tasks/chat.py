"""Small talk: greetings, thanks, goodbyes, and questions about the model itself, which is called steep.

There is nothing to work out, so the thought is a few words that name what was said. That is what the task is for: a
model that thinks also learns when there is nothing to think about.

A problem is one phrasing. Its id leaves case and punctuation out, so that "Hi there!" and "hi there" share a split.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from steep.errors import ConfigError
from steep.tasks.generated import Generated, split_of
from steep.types import Demonstration, Message, Problem, Verdict, correct, wrong

CALLS = ("{}", "{} steep", "{} my friend", "{} again", "well, {}")
ASKS = ("{}", "{}, steep", "hi, {}", "hey steep, {}", "so, {}")
SAYS = ("{}", "{}, steep", "ok, {}", "oh, {}", "ok steep, {}")


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One thing that someone may want, the ways to say it, and the replies that are right."""

    thought: str
    phrases: tuple[str, ...]
    """Lower case, without a mark at the end."""
    frames: tuple[str, ...]
    """What may stand around a phrase."""
    marks: tuple[str, ...]
    """What may end it."""
    replies: tuple[str, ...]


INTENTS = {
    "hello": Intent(
        thought="a greeting",
        phrases=(
            "hello",
            "hi",
            "hey",
            "hi there",
            "hello there",
            "hey there",
            "good morning",
            "good evening",
            "good day",
        ),
        frames=CALLS,
        marks=("", ".", "!"),
        replies=("Hello! What shall we think about?", "Hi there! What can I do for you?"),
    ),
    "mood": Intent(
        thought="they ask how I am",
        phrases=(
            "how are you",
            "how are you today",
            "how is it going",
            "are you well",
            "how do you feel",
            "how goes it",
        ),
        frames=ASKS,
        marks=("?", ""),
        replies=("I am well, thank you! What shall we think about?", "Very well, thank you! And you?"),
    ),
    "name": Intent(
        thought="they ask my name",
        phrases=("who are you", "what are you", "what is your name", "do you have a name", "who am I talking to"),
        frames=ASKS,
        marks=("?", ""),
        replies=(
            "I am steep, a small model that thinks before it answers.",
            "My name is steep. I think before I answer.",
        ),
    ),
    "human": Intent(
        thought="they ask if I am human",
        phrases=(
            "are you human",
            "are you a person",
            "are you a robot",
            "are you real",
            "are you a machine",
            "are you alive",
        ),
        frames=ASKS,
        marks=("?", ""),
        replies=("I am a small language model, not a person.", "I am not a person. I am a small model that thinks."),
    ),
    "maker": Intent(
        thought="they ask who made me",
        phrases=("who made you", "who built you", "who trained you", "where do you come from", "how were you made"),
        frames=ASKS,
        marks=("?", ""),
        replies=(
            "I was trained with steep, an open project.",
            "I come from steep, an open project that trains models to think.",
        ),
    ),
    "skills": Intent(
        thought="they ask what I can do",
        phrases=(
            "what can you do",
            "what are you good at",
            "what do you know",
            "how can you help me",
            "what can I ask you",
        ),
        frames=ASKS,
        marks=("?", ""),
        replies=(
            "I can do sums, spell words, count letters and solve number puzzles.",
            "Ask me for a sum, a word or a puzzle.",
        ),
    ),
    "help": Intent(
        thought="they want help",
        phrases=(
            "can you help me",
            "I need help",
            "please help me",
            "help me",
            "could you help me",
            "I have a question",
        ),
        frames=ASKS,
        marks=("", ".", "?"),
        replies=("Of course! What is the question?", "Gladly! Tell me what you need."),
    ),
    "thinking": Intent(
        thought="they ask why I think",
        phrases=("why do you think", "do you think", "why are you slow", "how do you think", "what are you thinking"),
        frames=ASKS,
        marks=("?", ""),
        replies=("I think step by step, because it makes my answers better.", "I write my steps down before I answer."),
    ),
    "thanks": Intent(
        thought="they thank me",
        phrases=("thanks", "thank you", "thanks a lot", "many thanks", "thank you very much", "thank you so much"),
        frames=SAYS,
        marks=("", ".", "!"),
        replies=("You are welcome!", "Glad to help!"),
    ),
    "praise": Intent(
        thought="kind words",
        phrases=(
            "well done",
            "good job",
            "you are great",
            "you are smart",
            "that was great",
            "I like you",
            "very good",
        ),
        frames=SAYS,
        marks=("", ".", "!"),
        replies=("Thank you, that is kind!", "Thank you! I like to think."),
    ),
    "blame": Intent(
        thought="they are not happy",
        phrases=(
            "you are wrong",
            "that is wrong",
            "that is not right",
            "you are bad",
            "I do not like you",
            "bad answer",
        ),
        frames=SAYS,
        marks=("", ".", "!"),
        replies=("I am sorry. Let me think again.", "I am sorry. I still make mistakes."),
    ),
    "goodbye": Intent(
        thought="a goodbye",
        phrases=(
            "bye",
            "goodbye",
            "bye bye",
            "good night",
            "see you",
            "see you later",
            "see you soon",
            "until next time",
        ),
        frames=SAYS,
        marks=("", ".", "!"),
        replies=("Goodbye! Come back soon.", "Bye! It was nice to talk with you."),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Chat(Generated):
    """Small talk with a model called steep. An answer is right if it is one of the known replies to what was said."""

    levels: tuple[int, ...] = (1,)
    """There is one level."""
    slips: float = 0.04
    """Chance that a demonstration takes what was said for something else at first."""

    def __post_init__(self) -> None:
        if self.levels != (1,):
            raise ConfigError(f"chat has no levels {list(self.levels)}", "its only level is 1")

    @property
    def name(self) -> str:
        return "chat"

    def make(self, level: int, rng: Random) -> Problem:
        name = rng.choice(list(INTENTS))
        intent = INTENTS[name]
        text = rng.choice(intent.frames).format(rng.choice(intent.phrases)) + rng.choice(intent.marks)
        return self._problem(name, text[0].upper() + text[1:] if rng.random() < 0.7 else text)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Case, punctuation and space do not matter, the words do."""
        replies = INTENTS[problem.key["intent"]].replies
        return correct() if plain(answer) in map(plain, replies) else wrong(f"not a reply to {problem.key['intent']}")

    def same(self, problem: Problem, answer: str, other: str) -> bool:
        return plain(answer) == plain(other)

    def demonstrate(self, problem: Problem, rng: Random) -> Demonstration:
        intent = INTENTS[problem.key["intent"]]
        thought = intent.thought
        if rng.random() < self.slips:
            mistake = rng.choice([other.thought for other in INTENTS.values() if other is not intent])
            thought = f"{mistake} no wait {thought}"
        return Demonstration(thought=thought, answer=rng.choice(intent.replies))

    def documents(self, rng: Random) -> str:
        """Something said and a reply to it, from the training split."""
        problem = self.make(1, rng)
        while problem.split != "train":
            problem = self.make(1, rng)
        return f"{problem.prompt[0].content} - {rng.choice(INTENTS[problem.key['intent']].replies)}"

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        hello, thanks = self._problem("hello", "Hi there!"), self._problem("thanks", "thank you")
        return [
            (hello, "Hello! What shall we think about?", correct()),
            (hello, "hello, what shall we think about", correct()),
            (hello, "Hello!", wrong("not a reply to hello")),
            (hello, "You are welcome!", wrong("not a reply to hello")),
            (thanks, " You are welcome.\n", correct()),
            (thanks, "You are welcome! Glad to help!", wrong("not a reply to thanks")),
            (thanks, "", wrong("not a reply to thanks")),
        ]

    def _problem(self, intent: str, text: str) -> Problem:
        problem_id = f"{self.name}/{intent}/{plain(text)}"
        return Problem(
            id=problem_id,
            task=self.name,
            split=split_of(problem_id),
            level=1,
            prompt=(Message(role="user", content=text),),
            key={"intent": intent},
        )


def plain(text: str) -> str:
    """The words of a text: lower case, without punctuation, one space between."""
    return " ".join(re.findall(r"\w+", text.lower()))
