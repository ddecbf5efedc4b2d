/** A described scene of the text corpus, for tests of training rows. */
export const describedScene = {
  description: "sand . small yellow car top left",
  captions: ["a picture of a yellow car on sand"],
  questions: [
    { question: "what color is the car?", answer: "yellow", type: "color" },
    { question: "where is the car?", answer: "top left", type: "position" },
    { question: "what is yellow?", answer: "car", type: "kind" },
  ],
  statements: ["the color of the car is yellow", "of things there is one"],
};
