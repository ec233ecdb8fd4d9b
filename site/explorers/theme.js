// What furo keeps under "theme" when the reader presses its button: light, dark, or auto, which is as the system has it.
{
  const follow = () => {
    try {
      document.body.dataset.theme = localStorage.getItem("theme") ?? "auto";
    } catch {
      document.body.dataset.theme = "auto"; // the browser keeps nothing for this page
    }
  };
  addEventListener("storage", follow); // it was pressed in another tab, or in the page around this one
  addEventListener("pageshow", follow); // this page comes back as it was left
  follow();
}
