// Questions whose answers the page can check by itself, as steep's tasks do (steep/tasks).

export interface Verdict {
  word: "correct" | "wrong" | "not checked";
  reason: string;
}

export const EXAMPLES = [
  "Use 3, 5 and 8 to make 25.",
  "Use 4, 6, 7 and 10 to make 44.",
  "How many r's are in strawberry?",
  "What is 47 + 85?",
];

const COUNTDOWN = /^use ([\d, and]+) to make (\d+)\.?$/i;
const LETTERS = /^how many (\w)'s are (?:there )?in (?:the word )?"?(\w+)"?\?$/i;
const SUM = /^what is (\d+) ?([-+*]) ?(\d+)\?$/i;

/** What an answer to the question is worth; null if the page cannot tell. */
export function check(question: string, answer: string): Verdict | null {
  const asked = question.trim();
  const countdown = COUNTDOWN.exec(asked);
  if (countdown) return makes(answer, numbers(countdown[1]!), Number(countdown[2]));
  const letters = LETTERS.exec(asked.toLowerCase());
  if (letters) return says(answer, letters[2]!.split(letters[1]!).length - 1);
  const sum = SUM.exec(asked);
  if (sum) return says(answer, evaluate(sum.slice(1).join("")).value);
  return null;
}

/** The last number is taken for the answer: models like to repeat the question first. */
function says(answer: string, right: number): Verdict {
  const said = answer.replace(/(\d),(?=\d{3})/g, "$1").replace("\u2212", "-").match(/-?\d+/g)?.at(-1);
  if (said === undefined) return { word: "not checked", reason: "the answer has no number in digits" };
  return verdict(Number(said) === right, `${said} was read; ${right} is right`);
}

/** The longest calculation is taken for the answer. */
function makes(answer: string, given: number[], target: number): Verdict {
  const plain = answer.replaceAll("×", "*").replaceAll("÷", "/").replaceAll("\u2212", "-");
  const found = (plain.match(/[\d()][\d\s()+*/-]*/g) ?? []).sort((a, b) => b.length - a.length)[0]?.trim();
  if (found === undefined) return { word: "not checked", reason: "the answer has no calculation" };
  try {
    const { value, used } = evaluate(found);
    if (String(used.sort(ascending)) !== String(given.sort(ascending)))
      return verdict(false, `${found} uses ${used.join(", ")}; the numbers are ${given.join(", ")}`);
    return verdict(Math.abs(value - target) < 1e-9, `${found} makes ${Number(value.toPrecision(6))}`);
  } catch (error) {
    return verdict(false, `${found} ${(error as Error).message}`);
  }
}

function verdict(right: boolean, reason: string): Verdict {
  return { word: right ? "correct" : "wrong", reason };
}

function numbers(text: string): number[] {
  return (text.match(/\d+/g) ?? []).map(Number);
}

function ascending(a: number, b: number): number {
  return a - b;
}

/** The value of an expression over whole numbers, and the numbers it uses. */
function evaluate(expression: string): { value: number; used: number[] } {
  const tokens = expression.match(/\d+|[-+*/()]/g) ?? [];
  const used: number[] = [];

  function factor(): number {
    const token = tokens.shift();
    if (token === "(") {
      const value = sum();
      if (tokens.shift() !== ")") throw new Error("has a bracket that is not closed");
      return value;
    }
    if (!token || !/\d/.test(token)) throw new Error("is not a calculation");
    used.push(Number(token));
    return Number(token);
  }
  function product(): number {
    let value = factor();
    while (tokens[0] === "*" || tokens[0] === "/") value = tokens.shift() === "*" ? value * factor() : value / factor();
    return value;
  }
  function sum(): number {
    let value = product();
    while (tokens[0] === "+" || tokens[0] === "-") value = tokens.shift() === "+" ? value + product() : value - product();
    return value;
  }

  const value = sum();
  if (tokens.length) throw new Error("is not a calculation");
  return { value, used };
}
