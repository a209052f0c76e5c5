import { Button, Menu, MenuItem, MenuTrigger, Popover } from "react-aria-components";

// A button that offers several things to do. A list of the form's kind would do each that one passes on the way.
export const Choose = ({
  label,
  items,
  onChoose,
  name,
}: {
  label: string;
  items: readonly (readonly [string, string])[];
  onChoose: (id: string) => void;
  name?: string;
}) => (
  <MenuTrigger>
    <Button aria-label={name ?? label} isDisabled={!items.length}>
      {label}
    </Button>
    <Popover className="popover">
      <Menu className="palette" aria-label={name ?? label} onAction={(key) => onChoose(String(key))}>
        {items.map(([id, text]) => (
          <MenuItem key={id} id={id} textValue={text}>
            {text}
          </MenuItem>
        ))}
      </Menu>
    </Popover>
  </MenuTrigger>
);
