// A box that keeps to its end while it grows, unless the reader has scrolled up. `follow`: whether it begins at its end.

import { useEffect, useRef, useState } from "preact/hooks";
import type { RefObject } from "preact";

const NEAR_PX = 24;

export function useStick(box: RefObject<HTMLElement | null>, follow: boolean) {
  const [atEnd, setAtEnd] = useState(true);
  const stuck = useRef(follow);
  function stick() {
    // What is observed is told once more of a box that is gone.
    if (stuck.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }
  useEffect(() => {
    const element = box.current!;
    let before = element.scrollTop;
    function scrolled() {
      const { scrollTop, scrollHeight, clientHeight } = element;
      // What has grown is not at its end either: only who scrolls up wants to stay.
      if (scrollHeight - scrollTop - clientHeight < NEAR_PX) stuck.current = true;
      else if (scrollTop < before) stuck.current = false;
      before = scrollTop;
      setAtEnd(stuck.current);
    }
    const grown = new ResizeObserver(stick);
    grown.observe(element);
    if (element.firstElementChild) grown.observe(element.firstElementChild);
    element.addEventListener("scroll", scrolled);
    return () => {
      grown.disconnect();
      element.removeEventListener("scroll", scrolled);
    };
  }, []);
  function toEnd() {
    stuck.current = true;
    stick();
  }
  return { atEnd, stick, toEnd };
}
